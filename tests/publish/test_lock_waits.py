"""A publish that waits: nobody queues behind it for long, who is in its way is told, and ended only if that was asked for."""

from __future__ import annotations

import json
import logging
import pickle
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import Server
from airflow_provider_safecopy.errors import StageTimeoutError
from airflow_provider_safecopy.publish import lock_waits
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.conftest import MakeRole, NothingLeft
from tests.support.customers import OLD, SHAPE, TABLE, fill, spec
from tests.support.database import Database
from tests.support.until import until

Copying = Future[CopyReport]

ALL_WAYS: dict[str, dict[str, Any]] = {
    **{way: {"publish": way} for way in ("delete_insert", "truncate_insert", "delta", "swap")},
    "insert": {"write_mode": "append", "append_key": "2026-11-20"},
    "upsert": {"write_mode": "upsert"},
}
WAYS_HERE = {way: options for way, options in ALL_WAYS.items() if way in STRATEGIES}
EXCLUSIVE = [way for way in ("truncate_insert", "swap") if way in STRATEGIES]
each_way = pytest.mark.parametrize("way", WAYS_HERE)
NIGHTLY = "nightly batch"  # the server leaves ASCII alone of an application's name


@pytest.fixture
def copying(filled: tuple[Database, Database]) -> Iterator[Callable[..., Copying]]:
    """Start a copy that will wait: ``copying(publish="delta")``. Returns once its publish does."""
    source, target = filled
    with ThreadPoolExecutor(1) as pool:

        def start(into: Database = target, **options: Any) -> Copying:
            way = {} if "write_mode" in options else {"publish": "delete_insert"}
            asked = {"timeouts": Timeouts(publish=60)} | way | options
            running = pool.submit(pipeline.copy, spec(**asked), source.endpoint, into.endpoint)
            until(lambda: running.done() or bool(waiting(target)))
            return running

        yield start


@dataclass(frozen=True)
class Holder:
    """A session that has done something in a transaction, and left it open."""

    session: psycopg.Connection[Any]
    pid: int

    def run(self, statement: str) -> None:
        self.session.execute(statement.encode())

    @property
    def alive(self) -> bool:
        try:
            self.run("SELECT")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def holding(target: Database, *statements: str, name: str = NIGHTLY) -> Iterator[Holder]:
    """A session that has done something in a transaction, and left it open."""
    with target.connect() as session:
        session.execute("SELECT set_config('application_name', %s, false)", [name])
        session.execute("BEGIN")
        for statement in statements:
            session.execute(statement.encode())
        yield Holder(session, session.info.backend_pid)


def lock(mode: str) -> str:
    return f"LOCK TABLE {TABLE} IN {mode} MODE"


def waiting(target: Database) -> list[int]:
    """The sessions of a copy that wait for a lock right now."""
    asked = "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^safecopy:' AND wait_event_type = 'Lock' AND datname = %s"
    return [pid for (pid,) in target.rows(asked, [target.name])]


# Readers


@pytest.mark.parametrize(
    "way, held", [*((way, "SHARE") for way in WAYS_HERE), *((way, "ACCESS SHARE") for way in EXCLUSIVE)]
)
def test_nobody_queues_behind_a_publish_that_waits(
    filled: tuple[Database, Database], copying: Callable[..., Copying], way: str, held: str
) -> None:
    """Where a way takes a lock that readers pass, they never wait at all: one that did would fail at once."""
    target, longest, reads = filled[1], 0.0, 0
    with holding(target, lock(held)), target.connect() as reader:
        running = copying(**WAYS_HERE[way])
        reader.execute(f"SET lock_timeout = '{'1s' if way in EXCLUSIVE else '1ms'}'".encode())
        end = time.monotonic() + 0.8
        while (began := time.monotonic()) < end:
            assert reader.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchall() == [(2,)]
            longest, reads = max(longest, time.monotonic() - began), reads + 1
        assert not running.done()
        logging.getLogger(__name__).info("%s, %s: %d reads, the longest %.3f s", way, held, reads, longest)
    assert running.result(100).inserted == 2000
    assert reads > 5


# Told


def test_who_is_in_the_way_is_told_at_last(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    with holding(target, lock("ROW EXCLUSIVE")) as holder, holding(target, lock("ACCESS SHARE"), name="reader"):
        with pytest.raises(StageTimeoutError) as caught:
            pipeline.copy(spec(publish="delete_insert", timeouts=Timeouts(publish=1)), source.endpoint, target.endpoint)
        error = pickle.loads(pickle.dumps(caught.value))
        (told,) = error.blockers
        assert told.pop("transaction_seconds") > 0.5
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told.pop("transaction_start"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.pop("query_start"))
        assert told == {
            "pid": holder.pid,
            "role": "postgres",
            "application_name": NIGHTLY,
            "prepared": None,
            "state": "idle in transaction",
            "mode": "RowExclusiveLock",
            "relation": "영업.고객",
            "holds": True,
        }
        assert json.loads(json.dumps(error.as_dict()))["blockers"][0]["pid"] == holder.pid
        assert f"pid {holder.pid} (postgres, {NIGHTLY}, idle in transaction, RowExclusiveLock on 영업.고객" in str(
            error
        )
        assert "terminate_blockers_after" in error.hint
        assert holder.alive
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)


def test_who_is_in_the_way_is_told_now_and_then(
    filled: tuple[Database, Database],
    copying: Callable[..., Copying],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lock_waits, "_TOLD_EVERY_SECONDS", 2.0)

    def told() -> list[str]:
        return [each for each in caplog.messages if each.startswith("publish: has been waiting for 영업.고객 for ")]

    with holding(filled[1], lock("ROW EXCLUSIVE")) as holder:
        running = copying()
        began = time.monotonic()
        until(lambda: len(told()) >= 2)
        assert time.monotonic() - began > 1
        assert all(f"pid {holder.pid} (postgres, {NIGHTLY}" in each for each in told())
    assert running.result(100).warnings == ()


@pytest.mark.pair(18, 16)
def test_what_a_role_may_not_see_is_left_out(filled: tuple[Database, Database], role: MakeRole) -> None:
    source, target = filled
    loader = able(role(target))
    with holding(target, lock("ROW EXCLUSIVE")) as holder, pytest.raises(StageTimeoutError) as caught:
        pipeline.copy(spec(publish="delete_insert", timeouts=Timeouts(publish=1)), source.endpoint, loader.endpoint)
    (told,) = caught.value.blockers
    assert (told["pid"], told["role"], told["mode"]) == (holder.pid, "postgres", "RowExclusiveLock")
    assert [told[name] for name in ("state", "transaction_start", "transaction_seconds", "query_start")] == [None] * 4
    assert f"pid {holder.pid} (postgres, {NIGHTLY}, RowExclusiveLock on 영업.고객)" in str(caught.value)


@pytest.mark.parametrize("way", ["delete_insert", "truncate_insert"])
def test_where_nobody_can_look_the_tables_holders_are_told(filled: tuple[Database, Database], way: str) -> None:
    """The server takes no more sessions: there is none to look from."""
    source, target = filled
    open_ = f'ALTER DATABASE "{target.name}" ALLOW_CONNECTIONS '

    def shut(at: Progress) -> None:
        if at.stage == "publish":
            target.server.execute("postgres", open_ + "false")

    with holding(target, lock("ROW EXCLUSIVE")) as holder, holding(target, lock("ACCESS SHARE")) as reader:
        try:
            asked = spec(publish=way, timeouts=Timeouts(publish=1))
            with pytest.raises(StageTimeoutError) as caught:
                pipeline.copy(asked, source.endpoint, target.endpoint, progress=shut)
        finally:
            target.server.execute("postgres", open_ + "true")
    wanted = {holder.pid} | ({reader.pid} if way in EXCLUSIVE else set())
    assert {told["pid"] for told in caught.value.blockers} == wanted


def test_whoever_has_locked_a_row_is_in_the_way_too(filled: tuple[Database, Database]) -> None:
    """A DELETE waits for it, though its lock on the table conflicts with nothing."""
    source, target = filled
    with holding(target, f"SELECT FROM {TABLE} FOR UPDATE") as holder, pytest.raises(StageTimeoutError) as caught:
        pipeline.copy(spec(publish="delete_insert", timeouts=Timeouts(publish=1)), source.endpoint, target.endpoint)
    (told,) = caught.value.blockers
    assert (told["pid"], told["relation"], told["holds"]) == (holder.pid, "영업.고객", True)


@pytest.mark.slow
def test_a_prepared_transaction_is_told_by_its_name(source: Database) -> None:
    with Server.start(source.server.installation, durable=False, settings={"max_prepared_transactions": "2"}) as server:
        target = Database(server, "postgres")
        for each in (source, target):
            each.execute(SHAPE)
        fill(source, 3)
        target.execute(OLD)
        with holding(target, f"DELETE FROM {TABLE}") as session:
            session.run("PREPARE TRANSACTION '반쯤 끝난 일'")
        asked = spec(publish="delete_insert", terminate_blockers_after=0.2, timeouts=Timeouts(publish=1))
        with pytest.raises(StageTimeoutError, match="the prepared transaction 반쯤 끝난 일 ") as caught:
            pipeline.copy(asked, source.endpoint, target.endpoint)
        (told,) = caught.value.blockers
        assert (told["pid"], told["prepared"], told["role"]) == (0, "반쯤 끝난 일", "postgres")
        assert told["transaction_seconds"] > 0.5
        target.execute("ROLLBACK PREPARED '반쯤 끝난 일'")


# Ended


@each_way
def test_whoever_holds_it_up_too_long_is_ended_if_that_was_asked_for(
    filled: tuple[Database, Database], copying: Callable[..., Copying], nothing_left: NothingLeft, way: str
) -> None:
    source, target = filled
    with holding(target, lock("SHARE")) as holder, holding(target, "SELECT") as other:
        running = copying(terminate_blockers_after=0.5, **WAYS_HERE[way])
        report = running.result(100)
        assert (holder.alive, other.alive) == (False, True)
        (warning,) = [each for each in report.warnings if "ended" in each]
        assert warning.startswith(f"ended pid {holder.pid} (postgres, {NIGHTLY}, idle in transaction, ")
        assert "query of 20" in warning
        assert re.search(r"which had held up the publish for [\d.]+ s$", warning)
    assert report.inserted == 2000
    nothing_left(source, target)


def test_whoever_holds_a_row_is_ended_too(filled: tuple[Database, Database], copying: Callable[..., Copying]) -> None:
    with holding(filled[1], f"SELECT FROM {TABLE} FOR UPDATE") as holder:
        report = copying(publish="delete_insert", terminate_blockers_after=0.3).result(100)
        assert not holder.alive
    assert any(f"ended pid {holder.pid}" in each for each in report.warnings)


def test_those_who_only_wait_before_us_are_not_ended(
    filled: tuple[Database, Database], copying: Callable[..., Copying]
) -> None:
    """A reader holds up somebody's ALTER TABLE, which holds up the publish, which the reader would not."""
    target = filled[1]
    with (
        holding(target, name="migration") as queued,
        ThreadPoolExecutor(1) as pool,
        holding(target, lock("ACCESS SHARE")) as reader,  # closed first, whatever happens: nobody waits for ever
    ):
        altering = pool.submit(queued.run, f'ALTER TABLE {TABLE} ADD "비고" text')
        until(lambda: bool(target.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", [queued.pid])))
        with pytest.raises(StageTimeoutError, match="waiting before us") as caught:
            copying(terminate_blockers_after=0.2, timeouts=Timeouts(publish=1.5)).result(100)
        (told,) = caught.value.blockers
        assert (told["pid"], told["holds"]) == (queued.pid, False)
        assert reader.alive
        reader.run("ROLLBACK")
        altering.result(100)
        assert queued.alive


def test_a_session_of_many_short_transactions_is_not_ended(
    filled: tuple[Database, Database], copying: Callable[..., Copying]
) -> None:
    """Whoever gives way before its time is let alone: the next transaction is another one."""
    target = filled[1]
    with holding(target, lock("ROW EXCLUSIVE")) as one, holding(target) as other:
        running = copying(terminate_blockers_after=3)
        first, second = one, other
        end = time.monotonic() + 4
        while time.monotonic() < end:
            second.run("ROLLBACK")
            second.run("BEGIN")
            second.run(lock("ROW EXCLUSIVE"))
            first.run("ROLLBACK")
            first, second = second, first
            turn = time.monotonic() + 0.4
            until(lambda turn=turn: time.monotonic() > turn)  # type: ignore[misc]
        assert not running.done()
        assert one.alive
        assert other.alive
        first.run("ROLLBACK")
        assert running.result(100).warnings == ()


def able(loader: Database) -> Database:
    """A role that may do all that a copy needs."""
    owner = Database(loader.server, loader.name)
    owner.execute(
        f'GRANT CREATE ON DATABASE "{loader.name}" TO "{loader.role}"; GRANT USAGE ON SCHEMA "영업" TO "{loader.role}";'
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO "{loader.role}"'
    )
    return loader


def test_a_role_without_the_right_tells_that_and_goes_on_waiting(
    filled: tuple[Database, Database], copying: Callable[..., Copying], role: MakeRole, caplog: pytest.LogCaptureFixture
) -> None:
    target = filled[1]
    loader = able(role(target))
    with holding(target, lock("ROW EXCLUSIVE")) as holder:
        running = copying(loader, publish="delete_insert", terminate_blockers_after=0.3)
        until(lambda: "could not be ended" in caplog.text)
        assert holder.alive
        assert not running.done()
    (warning,) = [each for each in running.result(100).warnings if "could not be ended" in each]
    assert warning.startswith(
        f"pid {holder.pid} (postgres, {NIGHTLY}, RowExclusiveLock on 영업.고객) held up the publish"
    )
    assert "permission denied" in warning


@pytest.mark.pair(18, 16)
def test_a_role_that_may_signal_backends_ends_those_of_others(
    filled: tuple[Database, Database], copying: Callable[..., Copying], role: MakeRole
) -> None:
    """Though it sees nothing of them; a superuser's it may not."""
    target = filled[1]
    loader, writer = able(role(target)), able(role(target))
    target.execute(f'GRANT pg_signal_backend TO "{loader.role}"')
    with holding(writer, lock("ROW EXCLUSIVE")) as holder, holding(target, lock("ACCESS SHARE")) as superuser:
        report = copying(loader, publish="delete_insert", terminate_blockers_after=0.3).result(100)
        assert (holder.alive, superuser.alive) == (False, True)
    assert any(f"ended pid {holder.pid} ({writer.role}, " in each for each in report.warnings)

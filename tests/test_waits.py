"""Each lock wait of a command is named within seconds, with the holder, and ends after minutes."""

from __future__ import annotations

import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.doctor import examine
from airflow_provider_safecopy.errors import LockStoreError, StageError, StageTimeoutError
from airflow_provider_safecopy.pipeline.reap import reap
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.conftest import MakeRole, NothingLeft
from tests.support.customers import TABLE, same, spec
from tests.support.database import Database
from tests.support.until import until

WITHIN_SECONDS = 30.0
PATIENT = Timeouts(publish=60, lock_wait=60)
PARTITIONED = f"""
CREATE SCHEMA "영업";
CREATE TABLE {TABLE} ("번호" bigint NOT NULL, "이름" text) PARTITION BY RANGE ("번호");
CREATE TABLE "영업"."조각" PARTITION OF {TABLE} FOR VALUES FROM (0) TO (1000000);
"""


@dataclass(frozen=True)
class Holder:
    session: psycopg.Connection[Any]
    pid: int

    def run(self, statement: str) -> None:
        self.session.execute(statement.encode())


@contextmanager
def holding(database: Database, *statements: str) -> Iterator[Holder]:
    """A session that has locked something, and is idle since."""
    with database.connect() as session:
        session.execute("SELECT set_config('application_name', 'migration', false)")
        session.execute("BEGIN")
        for statement in statements:
            session.execute(statement.encode())
        yield Holder(session, session.info.backend_pid)


def locked(table: str = TABLE) -> str:
    return f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"


def told(caplog: pytest.LogCaptureFixture, holder: Holder) -> str:
    """The first line about the holder, as soon as there is one."""

    def lines() -> list[str]:
        return [
            record.getMessage()
            for record in list(caplog.records)
            if record.levelno >= logging.WARNING and f"pid {holder.pid} (" in record.getMessage()
        ]

    until(lambda: bool(lines()))
    return lines()[0]


def waits(database: Database) -> bool:
    """Whether a session of a copy waits for a lock."""
    return bool(
        database.value(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND application_name LIKE 'safecopy%' AND a.datname = current_database()"
        )
    )


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("command", ["copy", "plan", "copy_tables", "plan_tables"])
def test_a_table_that_is_locked_when_it_is_planned_is_named_with_its_holder(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture, command: str, side: str
) -> None:
    """The kind: a question about a locked table waited silently for an hour."""
    source, target = filled
    asked = spec(timeouts=PATIENT)
    run: Callable[[], object] = {
        "copy": lambda: pipeline.copy(asked, source.endpoint, target.endpoint),
        "plan": lambda: pipeline.plan(asked, source.endpoint, target.endpoint),
        "copy_tables": lambda: pipeline.copy_tables([asked], source.endpoint, target.endpoint),
        "plan_tables": lambda: pipeline.plan_tables([asked], source.endpoint, target.endpoint),
    }[command]
    place = source if side == "source" else target
    with ThreadPoolExecutor(1) as pool, holding(place, locked()) as holder:
        running = pool.submit(run)
        until(lambda: running.done() or waits(place))
        if running.done():
            assert command.startswith("plan")
            return
        began = time.monotonic()
        line = told(caplog, holder)
        assert time.monotonic() - began < WITHIN_SECONDS
        assert "waiting for " in line
        assert "영업.고객" in line
        assert (
            "(postgres, migration, idle in transaction, AccessExclusiveLock on 영업.고객, transaction open for" in line
        )
        holder.run("COMMIT")
        running.result(100)


@pytest.mark.parametrize("stage, statement", [("export", "COPY%"), ("verify", "%bit(64)%")], ids=["export", "verify"])
def test_whatever_a_stage_waits_for_is_named_with_its_holder(
    filled: tuple[Database, Database],
    caplog: pytest.LogCaptureFixture,
    nothing_left: NothingLeft,
    stage: str,
    statement: str,
) -> None:
    """What a query reads may be locked only where the stage itself comes to it: psql waits, or the control session."""
    source, target = filled
    source.execute(looking(statement))
    asked = spec(verify="full", timeouts=PATIENT, where='"영업".look()')
    with ThreadPoolExecutor(1) as pool, holding(source, locked('"영업"."열쇠"')) as holder:
        running = pool.submit(pipeline.copy, asked, source.endpoint, target.endpoint)
        until(lambda: running.done() or waits(source))
        began = time.monotonic()
        line = told(caplog, holder)
        assert time.monotonic() - began < WITHIN_SECONDS
        assert "(postgres, migration, idle in transaction, AccessExclusiveLock on 영업.열쇠, " in line
        holder.run("COMMIT")
        assert stage in {each.stage for each in running.result(100).stages}
    assert same(source, target)
    nothing_left(source, target)


@pytest.mark.parametrize("way", ["swap", "delta", "delete_insert", "truncate_insert"])
def test_a_publish_that_waits_names_the_holder(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture, way: str
) -> None:
    source, target = filled
    with ThreadPoolExecutor(1) as pool, holding(target) as holder:

        def shut(at: Progress) -> None:
            if at.stage == "publish":
                holder.run(locked())

        asked = spec(publish=way, timeouts=PATIENT)
        running = pool.submit(pipeline.copy, asked, source.endpoint, target.endpoint, progress=shut)
        until(lambda: running.done() or waits(target))
        began = time.monotonic()
        line = told(caplog, holder)
        assert time.monotonic() - began < WITHIN_SECONDS
        assert "waiting for " in line
        holder.run("COMMIT")
        running.result(100)
    assert same(source, target)


def looking(statement: str) -> str:
    """A function of the source that waits for a lock in statements that are like this."""
    return (
        'CREATE TABLE "영업"."열쇠" (); CREATE FUNCTION "영업".look() RETURNS bool LANGUAGE plpgsql AS '
        f"'BEGIN IF current_query() LIKE ''{statement}'' THEN LOCK TABLE \"영업\".\"열쇠\" IN ACCESS SHARE MODE; END IF; "
        "RETURN true; END'"
    )


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_wait_ends_after_lock_wait_timeout_with_the_blocker_in_the_error(
    filled: tuple[Database, Database], nothing_left: NothingLeft, side: str
) -> None:
    source, target = filled
    place, asked = source if side == "source" else target, spec(timeouts=Timeouts(lock_wait=3))
    if side == "target":
        asked = spec(timeouts=Timeouts(lock_wait=3), publish="delete_insert")
    with holding(place, locked()) as holder, pytest.raises(StageTimeoutError) as caught:
        pipeline.copy(asked, source.endpoint, target.endpoint)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.retryable
    (found,) = error.blockers
    assert (found["pid"], found["role"], found["application_name"]) == (holder.pid, "postgres", "migration")
    assert f"pid {holder.pid} (postgres, migration" in str(error)
    assert "lock_wait_timeout" in error.hint
    assert json.dumps(error.as_dict())
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)


@pytest.mark.parametrize("command", ["copy", "plan", "copy_tables", "plan_tables"])
def test_a_locked_partition_is_named_with_its_holder_in_the_error(
    source: Database, target: Database, command: str
) -> None:
    """The kind: what a control session asks before the plan, outside of what adds the blockers to an error."""
    for database in (source, target):
        database.execute(PARTITIONED)
    run = commands(source, target)[command]
    with holding(source, locked('"영업"."조각"')) as holder, pytest.raises(StageTimeoutError) as caught:
        run()
    (found,) = caught.value.blockers
    assert (found["pid"], found["application_name"], found["relation"]) == (holder.pid, "migration", "영업.조각")
    assert f"pid {holder.pid} (postgres, migration" in str(caught.value)
    assert (caught.value.stage, caught.value.retryable) == ("plan", True)


@pytest.mark.parametrize("command", ["plan", "plan_tables"])
def test_a_locked_partition_of_the_target_keeps_no_plan_waiting(
    source: Database, target: Database, command: str
) -> None:
    """Planning locks nothing of the target's partitions; the publish waits for them, and names their holder."""
    for database in (source, target):
        database.execute(PARTITIONED)
    source.execute(f"INSERT INTO {TABLE} SELECT generate_series(1, 3)")
    with holding(target, locked('"영업"."조각"')) as holder:
        commands(source, target)[command]()
        with pytest.raises(StageTimeoutError) as caught:
            commands(source, target)["copy"]()
    assert f"pid {holder.pid} (postgres, migration" in str(caught.value)
    assert (caught.value.stage, caught.value.retryable) == ("publish", True)


def commands(source: Database, target: Database) -> dict[str, Callable[[], object]]:
    asked = spec(timeouts=Timeouts(lock_wait=3))
    return {
        "copy": lambda: pipeline.copy(asked, source.endpoint, target.endpoint),
        "plan": lambda: pipeline.plan(asked, source.endpoint, target.endpoint),
        "copy_tables": lambda: pipeline.copy_tables([asked], source.endpoint, target.endpoint),
        "plan_tables": lambda: pipeline.plan_tables([asked], source.endpoint, target.endpoint),
    }


@pytest.mark.parametrize("batch", [False, True], ids=["alone", "one of many"])
def test_a_psql_that_waits_for_its_source_names_the_blocker_in_its_error(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture, nothing_left: NothingLeft, batch: bool
) -> None:
    """A query that locks a table only where it runs: psql waits, not the control session."""
    source, target = filled
    source.execute(looking("COPY%"))
    asked = spec(timeouts=Timeouts(lock_wait=4), where='"영업".look()')

    def run() -> None:
        if batch:
            raise pipeline.copy_tables([asked], source.endpoint, target.endpoint).failed[0].error
        pipeline.copy(asked, source.endpoint, target.endpoint)

    with holding(source, locked('"영업"."열쇠"')) as holder, pytest.raises(StageTimeoutError) as caught:
        run()
    assert caught.value.stage == "export"
    assert caught.value.sqlstate == "55P03"
    assert [each["pid"] for each in caught.value.blockers] == [holder.pid]
    assert f"pid {holder.pid} (postgres, migration" in str(caught.value)
    assert "waiting for AccessShareLock on 영업.열쇠" in caplog.text
    nothing_left(source, target)


def test_behind_a_session_that_only_waits_before_us_its_own_blocker_is_named(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture
) -> None:
    """An ALTER TABLE that waits for an idle reader keeps out all that come later: who must end is the reader."""
    source, target = filled
    with (
        ThreadPoolExecutor(2) as pool,
        holding(source, f"SELECT count(*) FROM {TABLE}") as reader,
        holding(source) as altering,
    ):
        altering_done = pool.submit(altering.run, locked())
        queued = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        until(lambda: bool(source.value(queued, [altering.pid])))
        running = pool.submit(pipeline.copy, spec(timeouts=PATIENT), source.endpoint, target.endpoint)
        line = told(caplog, reader)
        assert f"pid {altering.pid} (" in line
        assert "waiting before us" in line
        reader.run("COMMIT")
        altering_done.result(100)
        altering.run("COMMIT")
        assert running.result(100).inserted == 2000


@pytest.mark.pair(18, 16)
def test_what_a_role_may_not_see_is_left_out_and_the_pid_is_not(
    filled: tuple[Database, Database], role: MakeRole, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = filled
    reader = role(source)
    source.execute(f'GRANT USAGE ON SCHEMA "영업" TO "{reader.role}"; GRANT SELECT ON {TABLE} TO "{reader.role}"')
    with holding(source, locked()) as holder, pytest.raises(StageError) as caught:
        pipeline.copy(spec(timeouts=Timeouts(lock_wait=3)), reader.endpoint, target.endpoint)
    (found,) = caught.value.blockers
    assert (found["pid"], found["role"], found["transaction_start"]) == (holder.pid, "postgres", None)
    assert f"pid {holder.pid} (postgres, migration, AccessExclusiveLock on 영업.고객)" in caplog.text


def test_a_locked_table_of_locks_is_named_with_its_holder(filled: tuple[Database, Database]) -> None:
    """Our own tables may be locked by others, too: by a migration, a dump that is restored, a person."""
    source, target = filled
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    with holding(target, locked("safecopy.lock")) as holder:
        began = time.monotonic()
        with pytest.raises(LockStoreError) as caught:
            pipeline.copy(spec(), source.endpoint, target.endpoint)
        with pytest.raises(LockStoreError) as reaping:
            reap(target.endpoint)
        assert time.monotonic() - began < 60
    for error in (caught.value, reaping.value):
        assert [each["pid"] for each in error.blockers] == [holder.pid]
        assert f"pid {holder.pid} (postgres, migration" in str(error)
        assert error.retryable


def test_the_doctor_says_who_holds_the_table(filled: tuple[Database, Database]) -> None:
    source, target = filled
    with holding(source, locked()) as holder:
        checks = examine(source.endpoint, target.endpoint, spec=spec())
    (failed,) = [check for check in checks if check.outcome == "failed"]
    assert f"pid {holder.pid} (postgres, migration" in failed.detail


def test_a_copy_that_does_not_wait_opens_no_session_to_look_from(
    filled: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_safecopy.postgres.lookout import Lookout

    def never(self: Lookout) -> None:
        raise AssertionError

    monkeypatch.setattr(Lookout, "_connect", never)
    monkeypatch.setattr("airflow_provider_safecopy.postgres.lookout.MIN_WAIT_SECONDS", 60.0)
    source, target = filled
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).inserted == 2000

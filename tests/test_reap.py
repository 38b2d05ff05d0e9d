"""Reaping: locks of dead and stuck runs are taken, with all they left; living runs beside them are not touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from airflow_provider_safecopy.errors import FencedOutError, LockLostError, LockStoreError, StageError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from airflow_provider_safecopy.pipeline.reap import KEEP_SECONDS, reap
from tests.conftest import MakePsql, MakeRole, NothingLeft
from tests.support.customers import TABLE
from tests.support.database import Database
from tests.support.fake_psql import Behaviour

LONG = Promise(stale_after=600)
SHORT = Promise(stale_after=0.3)

COPY = """
import json, sys
from dataclasses import replace
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.spec import CopySpec
given = json.load(sys.stdin)
pipeline.copy(
    CopySpec.of(**given["spec"]),
    Endpoint.from_conninfo(given["source"]),
    Endpoint.from_conninfo(given["target"]),
    contender=replace(Contender.alone("밤샘"), process=ProcessIdentity.read_current(may_end=True)),
    progress=lambda at: print(at.stage, at.bytes, flush=True),
)
"""
HOLD = """
import sys
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender
name, conninfo = sys.stdin.readline().split(maxsplit=1)
with LivingLock(name, conninfo.strip(), contender=Contender.alone("집계")) as lock:
    print("held", flush=True)
    sys.stdin.readline()
    lock.send_heartbeat(phase=0, count=1)
    print("still held", flush=True)
"""


@pytest.fixture
def made(target: Database) -> Database:
    """A target that holds the schema safecopy."""
    with target.connect() as session:
        schema.init(session)
    return target


@pytest.fixture
def store(made: Database) -> Iterator[PostgresStore]:
    store = PostgresStore(made.endpoint)
    yield store
    store.close()


@contextmanager
def python(program: str) -> Iterator[subprocess.Popen[str]]:
    """A Python in a process of its own, gone when the test is."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def holding(name: str, target: Database) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock until it is told to go on."""
    with python(HOLD) as process:
        say(process, f"{name} {target.conninfo}\n")
        assert heard(process) == "held\n"
        yield process


@contextmanager
def copying(databases: tuple[Database, Database], **spec: object) -> Iterator[subprocess.Popen[str]]:
    """A copy in a process of its own that has begun to export."""
    source, target = databases
    given = {"source": source.conninfo, "target": target.conninfo}
    tables = {"source_table": "영업.고객", "target_table": "영업.고객"}
    with python(COPY) as process:
        say(process, json.dumps(given | {"spec": tables | spec}))
        assert process.stdin is not None
        process.stdin.close()
        while not heard(process).startswith("export"):
            pass
        yield process


def say(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdin is not None
    process.stdin.write(words)
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it ended before it said anything"
    return line


def granted(store: PostgresStore, name: str, contender: Contender, promise: Promise = LONG) -> Lease:
    lease = store.acquire(name, contender, promise)
    assert isinstance(lease, Lease)
    return lease


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_stale(store: PostgresStore, name: str) -> bool:
    holder = store.read_holder(name)
    return holder is not None and holder.is_stale


def tokens(target: Database) -> dict[str, int]:
    return dict(target.rows("SELECT name, token FROM safecopy.lock"))


# Who is reaped


def test_the_lock_of_a_killed_process_is_taken_at_once_and_that_of_a_living_one_is_not(
    made: Database, store: PostgresStore
) -> None:
    with holding("죽은_작업", made) as dead, holding("산_작업", made) as living:
        dead.kill()
        dead.wait()
        told = reap(made.endpoint, dry_run=True)
        assert [(each.name, each.why) for each in told.reaped] == [("죽은_작업", "gone")]
        assert store.read_holder("죽은_작업") is not None, "a dry run only tells"
        report = reap(made.endpoint)
        assert [(each.name, each.why) for each in report.reaped] == [("죽은_작업", "gone")]
        assert str(report.reaped[0].holder).startswith("집계")
        assert [holder.name for holder in store.read_holders()] == ["산_작업"]
        say(living, "\n")
        assert heard(living) == "still held\n"
        assert living.wait(100) == 0
    assert reap(made.endpoint).reaped == ()
    (event,) = store.read_history("죽은_작업", limit=1)
    assert (event.kind, event.detail["reason"], event.token) == ("reap", "gone", 2)


def test_a_stopped_copy_is_reaped_when_it_is_stale_with_process_sessions_and_staging(
    filled: tuple[Database, Database], fake_psql: MakePsql, nothing_left: NothingLeft
) -> None:
    _, target = filled
    hanging = fake_psql(Behaviour("export", hang_after=10_000))
    with copying(filled, psql=hanging, stale_after=1) as process:
        process.send_signal(signal.SIGSTOP)
        store = PostgresStore(target.endpoint)
        wait_until(lambda: is_stale(store, "영업.고객"))
        told = reap(target.endpoint, dry_run=True)
        assert [(each.name, each.why) for each in told.reaped] == [("영업.고객", "stale")]
        assert [name.startswith("safecopy.고객__safecopy_1_") for name in told.staging] == [True]
        report = reap(target.endpoint)
        assert report.staging == told.staging
        assert process.wait(100) == -signal.SIGKILL
        store.close()
    nothing_left(*filled)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2


def test_a_copy_that_goes_on_is_left_alone(filled: tuple[Database, Database], fake_psql: MakePsql) -> None:
    _, target = filled
    with copying(filled, psql=fake_psql(Behaviour("export", hang_after=10_000))) as process:
        for dry_run in (True, False):
            report = reap(target.endpoint, dry_run=dry_run)
            assert (report.reaped, report.staging) == ((), ())
        assert process.poll() is None
        assert target.value("SELECT count(*) FROM safecopy.lock WHERE lease_id IS NOT NULL") == 1


def test_who_is_overdue_for_less_than_was_asked_is_left_alone(made: Database, store: PostgresStore) -> None:
    granted(store, "집계", Contender.alone(), SHORT)
    wait_until(lambda: is_stale(store, "집계"))
    assert reap(made.endpoint, overdue=3600).reaped == ()
    assert [each.why for each in reap(made.endpoint).reaped] == ["stale"]


def test_a_stuck_holder_is_fenced_out_though_its_process_may_not_be_ended(made: Database, store: PostgresStore) -> None:
    lease = granted(store, "집계", Contender.alone(), SHORT)  # this very process, which may not be ended
    wait_until(lambda: is_stale(store, "집계"))
    reap(made.endpoint)
    with pytest.raises(LockLostError):
        store.heartbeat(lease, phase=0, count=1)
    with made.connect() as session, session.transaction(), pytest.raises(FencedOutError):
        check_fence(session, lease)
    assert granted(store, "집계", Contender.alone()).token == 3


def test_whom_a_judge_knows_to_be_finished_is_reaped_if_that_is_all_of_them(
    made: Database, store: PostgresStore
) -> None:
    setup = replace(Contender.alone("영업_복사"), member="잠금", process=None, is_detached=True)
    granted(store, "끝난_실행", setup)
    granted(store, "도는_실행", replace(setup, owner_key="다른 실행"))
    task = replace(setup, owner_key="다른 실행", member="복사", attempt=Contender.alone().attempt)
    granted(store, "도는_실행", task)

    def judge(holder: Holder) -> set[str]:
        return {str(setup.attempt)}

    report = reap(made.endpoint, judge=judge)
    assert [(each.name, each.why) for each in report.reaped] == [("끝난_실행", "finished")]
    assert [holder.name for holder in store.read_holders()] == ["도는_실행"]


def test_who_revives_while_it_is_looked_at_keeps_its_lock(made: Database, store: PostgresStore) -> None:
    lease = granted(store, "집계", Contender.alone(), SHORT)
    wait_until(lambda: is_stale(store, "집계"))

    def revive(holder: Holder) -> set[str]:
        """Asked after the holder was looked at, and before its lock is taken."""
        assert holder.is_stale
        made.execute("UPDATE safecopy.lock SET stale_after = '1 hour'")
        store.heartbeat(lease, phase=1, count=1)
        return set()

    assert reap(made.endpoint, judge=revive).reaped == ()
    assert store.heartbeat(lease, phase=1, count=2) > 3000


# What else is cleared away


def test_staging_of_a_run_that_is_gone_is_dropped_though_it_holds_no_lock(made: Database) -> None:
    left = 'safecopy."고객__safecopy_7_0123abcd"'
    made.execute(f"CREATE UNLOGGED TABLE {left} (번호 int)")
    assert len(reap(made.endpoint, dry_run=True).staging) == 1
    assert made.value("SELECT to_regclass(%s) IS NOT NULL", [left])
    assert len(reap(made.endpoint).staging) == 1
    assert made.value("SELECT to_regclass(%s) IS NULL", [left])


def test_old_history_is_forgotten_and_tokens_go_on(made: Database, store: PostgresStore) -> None:
    store.release(granted(store, "집계", Contender.alone()))
    assert reap(made.endpoint, keep=KEEP_SECONDS).forgotten == 0
    assert reap(made.endpoint, keep=0.000_001, dry_run=True).forgotten == 0
    assert reap(made.endpoint, keep=0.000_001).forgotten == 2
    assert store.read_history() == ()
    assert tokens(made) == {"집계": 1}


def test_a_dry_run_changes_no_row(made: Database, store: PostgresStore) -> None:
    granted(store, "집계", Contender.alone(), SHORT)
    wait_until(lambda: is_stale(store, "집계"))
    tables = ("lock", "member", "lock_event")
    before = [made.rows(f"SELECT t::text FROM safecopy.{table} t ORDER BY 1") for table in tables]
    assert reap(made.endpoint, dry_run=True, keep=0.000_001).reaped
    assert [made.rows(f"SELECT t::text FROM safecopy.{table} t ORDER BY 1") for table in tables] == before


# Where it cannot be done


def test_where_there_is_no_schema_there_is_nothing_to_reap(target: Database) -> None:
    report = reap(target.endpoint)
    assert (report.initialised, report.reaped, report.staging, report.forgotten) == (False, (), (), 0)
    assert not target.value("SELECT to_regnamespace('safecopy') IS NOT NULL"), "nor is one made"


def test_a_role_without_rights_is_told_the_next_step(made: Database, role: MakeRole) -> None:
    with pytest.raises(LockStoreError, match="safecopy init") as caught:
        reap(role(made).endpoint)
    assert caught.value.sqlstate == "42501"


def test_an_unreachable_target_is_an_error_of_connecting(made: Database) -> None:
    with pytest.raises(StageError) as caught:
        reap(replace(made.endpoint, parameters={**made.endpoint.parameters, "port": "1"}))
    assert caught.value.stage == "connect"


def test_the_report_is_plain_json(made: Database, store: PostgresStore) -> None:
    granted(store, "집계", Contender.alone("밤샘"), SHORT)
    wait_until(lambda: is_stale(store, "집계"))
    told = json.loads(json.dumps(reap(made.endpoint).as_dict()))
    assert (told["dry_run"], told["initialised"], told["staging"]) == (False, True, [])
    (reaped,) = told["reaped"]
    assert (reaped["name"], reaped["why"], reaped["holder"]["owner"]["owner"]) == ("집계", "stale", "밤샘")
    assert reaped["holder"]["members"][0]["pid"] == os.getpid()

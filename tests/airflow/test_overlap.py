"""The same DAG run twice at once, by Airflow itself, in two processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.airflow.conftest import _ran
from tests.airflow.home import AirflowHome
from tests.conftest import NothingLeft
from tests.support.database import Database

# Exports wait for a gate, an advisory lock of the source; whoever waits for the lock looks often.
BODY = """\
import os
from airflow_provider_safecopy.triggers import living_lock
living_lock.POLL_SECONDS = (0.1, 0.2)
SafeCopyOperator(
    task_id="복사", source_conn_id="erp", target_conn_id="dw", target_table="분석.고객", on_busy=os.environ["ON_BUSY"],
    source_sql="SELECT 번호, 이름 FROM 영업.고객, (SELECT pg_advisory_xact_lock_shared(7)) AS 문",
)"""
OLD = [(9, "옛 고객")]
SECONDS = 120.0


@pytest.fixture(autouse=True)
def _poll_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set by the DAG, and set back."""
    from airflow_provider_safecopy.triggers import living_lock

    monkeypatch.setattr(living_lock, "POLL_SECONDS", living_lock.POLL_SECONDS)


def _until(seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _waits_at_the_gate(source: Database) -> bool:
    return bool(source.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))


def _refused(target: Database) -> int:
    return int(target.value("SELECT count(*) FROM safecopy.lock_event WHERE kind = 'refused'"))


def _open_for_a_waiter(gate: psycopg.Connection[object], target: Database) -> threading.Thread:
    """Open the gate as soon as one more has been refused the lock."""
    before = _refused(target)

    def wait_and_open() -> None:
        _until(lambda: _refused(target) > before)
        gate.execute("SELECT pg_advisory_unlock(7)")

    thread = threading.Thread(target=wait_and_open)
    thread.start()
    return thread


@pytest.mark.slow
def test_while_one_run_copies_others_are_refused_are_skipped_or_wait(
    airflow: AirflowHome,
    tables: tuple[Database, Database],
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: NothingLeft,
) -> None:
    source, target = tables
    monkeypatch.setenv("ON_BUSY", "fail")
    with airflow.dag(BODY) as dag_id, source.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(7)")
        with airflow.start("dags", "test", dag_id) as first:
            _until(lambda: _waits_at_the_gate(source))
            with airflow.start("tasks", "test", dag_id, "복사") as test:
                refused = _ran(airflow, dag_id)
                monkeypatch.setenv("ON_BUSY", "skip")
                skipped = _ran(airflow, dag_id)
                tested, _ = test.communicate(timeout=SECONDS)
            assert target.rows("TABLE 분석.고객") == OLD
            monkeypatch.setenv("ON_BUSY", "wait")
            opening = _open_for_a_waiter(gate, target)
            waited = _ran(airflow, dag_id)
            opening.join()
            said, _ = first.communicate(timeout=SECONDS)
    assert (refused.state, skipped.state, waited.state, first.returncode) == ("failed", "skipped", "success", 0), said
    assert f"is held by dag {dag_id}, run manual__" in tested
    assert (skipped.result["status"], skipped.result["token"]) == ("skipped", None)
    (member,) = skipped.result["holder"]["members"]
    assert (member["member"], member["try"], member["pid"]) == ("복사", 1, first.pid)
    owners = target.rows("SELECT token, owner_key FROM safecopy.receipt ORDER BY token")
    assert [token for token, _ in owners] == [1, 2]
    assert waited.result["token"] == 2
    assert target.value("SELECT count(*) FROM safecopy.lock_event WHERE owner_key LIKE '%|test|%'") == 1
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == source.rows("TABLE 영업.고객 ORDER BY 1")
    nothing_left(source, target)


def test_whoever_waits_gives_up_at_the_deadline(
    tables: tuple[Database, Database], airflow: AirflowHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook

    _, target = tables
    monkeypatch.setenv("ON_BUSY", "wait")
    with (
        airflow.dag(BODY.replace("on_busy=", "wait_timeout=2, on_busy=")) as dag_id,
        SafeCopyHook(target_conn_id="dw").living_lock("분석.고객") as lock,
    ):
        ran = _ran(airflow, dag_id)
        lock.heartbeat()
    assert (ran.state, target.rows("TABLE 분석.고객")) == ("failed", OLD)
    assert _refused(target) == 2  # before it waited, and after

"""A task that is stopped: never a success, and nothing is left."""

from __future__ import annotations

import signal
from datetime import timedelta

import psutil
import pytest

from tests.airflow.conftest import RunCopy
from tests.airflow.home import AirflowHome, copying, heard
from tests.conftest import MakePsql, NothingLeft
from tests.support.database import Database
from tests.support.fake_psql import Behaviour

NAMES = {"source_table": "영업.고객", "target_table": "분석.고객"}
OLD = [(9, "옛 고객")]


@pytest.fixture
def stuck(fake_psql: MakePsql) -> str:
    """A psql whose export stops in the middle and never goes on."""
    return fake_psql(Behaviour(stage="export", hang_after=5))


def _stop(airflow: AirflowHome, psql: str, number: signal.Signals, *command: str) -> tuple[int, str, str]:
    """Run a DAG of one stuck copy until its import has started, and send it a signal."""
    with airflow.dag(copying(psql=psql, transfer="chunked", **NAMES)) as dag_id:
        with airflow.start(*(word.format(dag_id) for word in command)) as process:
            said = heard(process, "import started")
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            rest, _ = process.communicate()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
        return process.returncode, dag_id, said + rest


def test_sigterm_ends_the_copy_and_fails_the_task(
    airflow: AirflowHome, tables: tuple[Database, Database], stuck: str, nothing_left: NothingLeft
) -> None:
    source, target = tables
    exit_code, dag_id, said = _stop(airflow, stuck, signal.SIGTERM, "dags", "test", "{}")
    assert exit_code != 0, said
    assert airflow.ran(dag_id).states == {"복사": "failed"}
    assert not airflow.ran(dag_id).results
    assert target.rows("TABLE 분석.고객") == OLD
    nothing_left(source, target)


def test_sigkill_leaves_no_psql_and_the_next_run_sweeps_the_rest(
    airflow: AirflowHome, tables: tuple[Database, Database], stuck: str, run_copy: RunCopy, nothing_left: NothingLeft
) -> None:
    source, target = tables
    exit_code, _, _ = _stop(airflow, stuck, signal.SIGKILL, "dags", "test", "{}")
    assert exit_code == -signal.SIGKILL
    assert target.rows("TABLE 분석.고객") == OLD
    assert run_copy(**NAMES).state == "success"
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == source.rows("TABLE 영업.고객 ORDER BY 1")
    nothing_left(source, target)


def test_ctrl_c_cleans_up(
    airflow: AirflowHome, tables: tuple[Database, Database], stuck: str, nothing_left: NothingLeft
) -> None:
    source, target = tables
    _, _, said = _stop(airflow, stuck, signal.SIGINT, "tasks", "test", "{}", "복사")
    assert "KeyboardInterrupt" in said
    assert target.rows("TABLE 분석.고객") == OLD
    nothing_left(source, target)


def test_airflow_s_own_timeout_ends_the_copy(
    tables: tuple[Database, Database], stuck: str, run_copy: RunCopy, nothing_left: NothingLeft
) -> None:
    source, target = tables
    ran = run_copy(psql=stuck, execution_timeout=timedelta(seconds=1), **NAMES)
    assert ran.state == "failed"
    assert target.rows("TABLE 분석.고객") == OLD
    nothing_left(source, target)


def test_a_stage_s_own_timeout_ends_the_copy(
    tables: tuple[Database, Database], stuck: str, run_copy: RunCopy, nothing_left: NothingLeft
) -> None:
    source, target = tables
    assert run_copy(psql=stuck, stall_timeout=0.5, **NAMES).state == "failed"
    assert target.rows("TABLE 분석.고객") == OLD
    nothing_left(source, target)

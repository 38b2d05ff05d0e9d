"""A task whose supervisor was killed goes on, unheard of; Airflow starts a retry beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.airflow.conftest import dag_bag
from tests.airflow.home import TASK, AirflowHome
from tests.conftest import NothingLeft
from tests.support.database import Database

# Exports wait for a gate, an advisory lock of the source. A process elsewhere is one that nobody here knows of.
BODY = """\
import os
from airflow_provider_safecopy.lock.process import ProcessIdentity
if os.environ.get("ELSEWHERE"):
    ProcessIdentity.read_current = staticmethod(lambda **_: ProcessIdentity("다른 기계", os.getpid()))
SafeCopyOperator(
    task_id="복사", source_conn_id="erp", target_conn_id="dw", target_table="분석.고객", retries=1,
    source_sql=f"SELECT 번호, 이름 FROM 영업.고객, (SELECT pg_advisory_xact_lock_shared({os.environ['GATE']})) AS 문",
)"""
SECONDS = 120.0


def _until(seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _retry(airflow: AirflowHome, dag_id: str) -> None:
    """The second try of the same run's task, in this process."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk.definitions.dag import _run_task
    from airflow.utils.session import create_session

    dag: Any = dag_bag(airflow.dags).dags[dag_id]
    with create_session() as session:
        ti = session.query(TaskInstance).filter(TaskInstance.dag_id == dag_id).one()
        ti.try_number, ti.state = 2, None
        session.commit()
        _run_task(ti=ti, task=dag.task_dict[TASK])


@pytest.mark.skipif(version("apache-airflow").startswith("2."), reason="Airflow 2 has other supervisors")
@pytest.mark.parametrize("elsewhere", ["", "1"], ids=["here", "elsewhere"])
def test_the_zombie_cannot_publish_beside_its_retry(
    airflow: AirflowHome,
    tables: tuple[Database, Database],
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: NothingLeft,
    elsewhere: str,
) -> None:
    source, target = tables
    monkeypatch.setenv("GATE", "7")
    with airflow.dag(BODY) as dag_id, source.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(7)")
        command = [sys.executable, str(Path(__file__).with_name("supervised.py")), str(airflow.dags), dag_id]
        supervisor = subprocess.Popen(command, env=os.environ | {"ELSEWHERE": elsewhere}, stdin=subprocess.DEVNULL)
        _until(lambda: source.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        (zombie, *others) = psutil.Process(supervisor.pid).children(recursive=True)
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
        assert zombie.is_running()
        monkeypatch.setenv("GATE", "8")
        _retry(airflow, dag_id)
        retried = airflow.ran(dag_id)
        gate.execute("SELECT pg_advisory_unlock(7)")
        _, alive = psutil.wait_procs([zombie, *others], timeout=SECONDS)
    assert not alive
    assert retried.state == "success"
    assert target.rows("SELECT attempt::text FROM safecopy.receipt") == [(retried.result["attempt"],)]
    (kinds,) = target.rows("SELECT string_agg(kind, ' ' ORDER BY id) FROM safecopy.lock_event")[0]
    # On a slow machine the zombie may come to say something before, and die of having nobody to say it to.
    assert kinds in ("grant supersede release", "grant release grant release")
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == source.rows("TABLE 영업.고객 ORDER BY 1")
    nothing_left(source, target)

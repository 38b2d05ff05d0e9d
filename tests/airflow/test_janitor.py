"""The janitor DAG, against locks of dead runs and of living ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender
from tests.airflow.conftest import Connect, _ran, dag_bag
from tests.airflow.home import AirflowHome
from tests.support.database import Database

DAGS = Path(__file__).parents[2] / "dags"
JANITOR = "세이프카피_청소"


@pytest.fixture
def dw(target: Database, connect: Connect) -> Database:
    """The target, connection dw, its schema made."""
    connect("dw", target)
    with target.connect() as session:
        schema.init(session)
    return target


def _hold(target: Database, lock: str, **owner: str) -> LivingLock:
    """A lock that is held by a run; its connection is closed."""
    contender = Contender(f"{lock}|{uuid4()}", owner)
    held = LivingLock(lock, target.conninfo, contender=contender).acquire()
    held.store.close()
    return held


def _overdue(target: Database, lock: str) -> None:
    target.execute("UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 s' WHERE name = %s", [lock])


def _free(target: Database) -> dict[str, bool]:
    return dict(target.rows("SELECT name, lease_id IS NULL FROM safecopy.lock"))


@pytest.fixture
def clean(airflow: AirflowHome) -> Iterator[Any]:
    """Run the janitor by ``dag.test()``, with parameters; and beside it a DAG that may be triggered again."""
    file = airflow.dags / "janitor.py"
    file.write_bytes((DAGS / "safecopy_janitor.py").read_bytes())

    def run(**params: Any) -> Any:
        dags = dag_bag(airflow.dags).dags
        for dag in dags.values():
            if hasattr(dag, "sync_to_db"):  # Airflow 2
                dag.sync_to_db()
                importlib.import_module("airflow.models.serialized_dag").SerializedDagModel.write_dag(dag)
        dags[JANITOR].test(run_conf=params)
        return airflow.ran(JANITOR)

    yield run
    file.unlink()


def test_it_takes_the_locks_of_dead_runs_and_leaves_living_ones(dw: Database, clean: Any) -> None:
    _hold(dw, "산 것", dag="가", run="1", deployment="airflow")
    _hold(dw, "죽은 것", dag="나", run="1", deployment="airflow")
    _overdue(dw, "죽은 것")
    ran = clean(dry_run=True)
    assert set(_free(dw).values()) == {False}
    ran = clean()
    assert _free(dw) == {"산 것": False, "죽은 것": True}
    assert (ran.states["거두기"], ran.states["경고"], ran.states["다시_실행"]) == ("success", "success", "skipped")
    assert ran.results["거두기"] == []


def test_it_warns_of_locks_that_refuse_again_and_again(dw: Database, clean: Any) -> None:
    held = _hold(dw, "붙잡은 것", dag="가", run="1", deployment="airflow")
    _hold(dw, "조용한 것", dag="가", run="2", deployment="airflow")
    for _ in range(3):
        held.store.record_refusal("붙잡은 것", Contender.alone("다음"))
    held.store.close()
    assert clean(warn_after=4).results["경고"] == []
    assert clean(warn_after=3).results["경고"] == ["붙잡은 것"]


def test_it_finds_nothing_where_nothing_was_ever_locked(target: Database, connect: Connect, clean: Any) -> None:
    connect("dw", target)
    ran = clean()
    assert (ran.results["거두기"], ran.results["경고"]) == ([], [])


def test_asked_for_it_triggers_the_dags_of_dead_runs_of_this_airflow(
    airflow: AirflowHome, dw: Database, clean: Any
) -> None:
    body = """\
from airflow.providers.common.compat.sdk import task
task(task_id="일")(lambda: None)()"""
    with airflow.dag(body, name="again") as dag_id:
        _ran(airflow, dag_id)  # so that Airflow knows it
        _hold(dw, "우리 것", dag=dag_id, run="죽은_실행", deployment="airflow")
        _hold(dw, "남의 것", dag=dag_id, run="죽은_실행", deployment="다른_곳")
        for lock in ("우리 것", "남의 것"):
            _overdue(dw, lock)
        ran = clean(retrigger=True)
        runs = airflow._ask("SELECT conf FROM dag_run WHERE dag_id = ?", dag_id)
    assert _free(dw) == {"우리 것": True, "남의 것": True}
    assert ran.results["거두기"] == [{"trigger_dag_id": dag_id, "conf": {"in_place_of": "죽은_실행"}}]
    assert ran.states["다시_실행[0]"] == "success"
    assert len(runs) == 2

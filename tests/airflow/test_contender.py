"""Who contends for a lock, from what a task knows of itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_safecopy.lock.model import Contender
from tests.airflow.conftest import RunDag
from tests.airflow.home import AirflowHome

STARTED = datetime(2026, 3, 1, 9, 0, 0, 123456, tzinfo=timezone(timedelta(hours=9)))


def _contender(*, detached: bool = False, context: Mapping[str, Any] | None = None, **others: Any) -> Contender:
    from airflow_provider_safecopy.operators.common import build_contender

    ti = {"dag_id": "영업_복사", "run_id": "수동_1", "task_id": "고객_복사", "map_index": -1, "try_number": 2}
    known: Any = {"ti": SimpleNamespace(**ti | others), "dag_run": SimpleNamespace(start_date=STARTED)}
    return build_contender(known | (context or {}), detached=detached)


@pytest.fixture(autouse=True)
def _deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SAFECOPY__DEPLOYMENT_ID", "운영")


def test_the_owner_is_the_run_with_its_start_and_the_member_its_task() -> None:
    contender = _contender()
    started = "2026-03-01T00:00:00.123456+00:00"
    assert contender.owner_key == f"운영|영업_복사|수동_1|{started}"
    assert contender.owner == {"dag": "영업_복사", "run": "수동_1", "deployment": "운영", "started": started}
    assert (contender.member, contender.try_number) == ("고객_복사", 2)
    assert contender.process is not None
    assert contender.process.pid == os.getpid()


def test_mapped_tasks_are_members_apart() -> None:
    assert _contender(map_index=3).member == "고객_복사[3]"
    assert _contender(map_index=None).member == "고객_복사"


def test_a_detached_member_has_no_place() -> None:
    contender = _contender(detached=True)
    assert (contender.is_detached, contender.process) == (True, None)


@pytest.mark.parametrize("run", [None, SimpleNamespace(start_date=None)])
def test_a_run_that_was_never_started_still_has_an_owner(run: Any) -> None:
    from airflow_provider_safecopy.operators.common import build_contender

    ti = SimpleNamespace(dag_id="가", run_id="나", task_id="다", map_index=-1, try_number=1)
    context: Any = {"ti": ti, "dag_run": run}
    assert build_contender(context).owner_key == "운영|가|나|not started"


@pytest.mark.parametrize("sign", ["environment", "command", "context"])
def test_airflow_tasks_test_is_a_run_of_its_own_each_time(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    live = _contender()
    others = {"test_mode": True} if sign == "context" else {}
    if sign == "environment":
        monkeypatch.setenv("AIRFLOW_TEST_MODE", "True")
    elif sign == "command":
        monkeypatch.setattr(sys, "argv", ["airflow", "tasks", "test", "영업_복사", "고객_복사"])
    first, second = _contender(context=others), _contender(context=others)
    assert len({live.owner_key, first.owner_key, second.owner_key}) == 3
    assert first.owner_key.startswith(f"{live.owner_key}|test|")
    assert first.owner == {"mode": "tasks test", "dag": "영업_복사"}


def test_a_run_of_this_airflow_says_so_and_its_process_is_not_to_be_ended(
    airflow: AirflowHome, run_dag: RunDag
) -> None:
    ran = run_dag("""\
from airflow.providers.common.compat.sdk import task
from airflow_provider_safecopy.operators.common import build_contender
@task(task_id="누구", multiple_outputs=False)
def who(**context):
    from airflow_provider_safecopy.hooks.compat import patch_non_latin1_ids
    patch_non_latin1_ids()
    contender = build_contender(context)
    return [contender.owner, contender.member, contender.try_number, contender.process.may_end]
who()""")
    owner, member, try_number, may_end = ran.results["누구"]
    assert (owner["deployment"], member, try_number) == ("운영", "누구", 1)
    assert owner["dag"].startswith("시험_")
    assert datetime.fromisoformat(owner["started"]).utcoffset() == UTC.utcoffset(None)
    assert may_end is False  # `dag.test()` runs in the process of whoever called it

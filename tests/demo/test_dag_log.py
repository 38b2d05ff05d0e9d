"""Which lines of Airflow's log tell something of the copies."""

from __future__ import annotations

import json

import pytest

from airflow_provider_safecopy.demo.run import DagLog, LogLine


def line(event: str, logger: str = "", level: str = "info", **more: object) -> str:
    return json.dumps({"event": event, "logger": logger, "level": level, **more}, ensure_ascii=False) + "\n"


def test_the_core_s_lines_are_told_with_their_task() -> None:
    log = DagLog()
    log.read(line("[DAG TEST] starting task_id=고객_복사 map_index=-1", "airflow.sdk.definitions.dag"))
    told = log.read(line("export started (PID 7)", "airflow_provider_safecopy.transfer.export"))
    assert told == LogLine("고객_복사: export started (PID 7)", telling=True)
    log.read(line("[DAG TEST] starting task_id=주문_내역_복사 map_index=-1"))
    assert log.read(line("copy a into b", "airflow_provider_safecopy.pipeline")).text == "주문_내역_복사: copy a into b"


@pytest.mark.parametrize(
    "logger", ["airflow.models.dagrun", "task", "airflow_provider_safecopy.operators.safecopy", "safecopy.pipeline"]
)
def test_others_are_not(logger: str) -> None:
    assert not DagLog().read(line("DagRun Finished", logger)).telling


def test_an_error_is_told_whoever_has_it_with_its_exception() -> None:
    chain = [{"exc_type": "AirflowFailException", "exc_value": "PlanError: no such table"}, {"exc_type": "PlanError"}]
    told = DagLog().read(line("Task failed", "task", "error", exception=chain))
    assert told.telling
    assert told.text.endswith("Task failed\n  AirflowFailException: PlanError: no such table")
    assert DagLog().read(line("Task failed", "task", "error", exception="as text")).telling


@pytest.mark.parametrize(
    "raw", ["hi\n", "[2026-11-20] {export.py:69} INFO - export started\n", "[1, 2]\n", "7\n", "\n"]
)
def test_what_is_no_object_is_taken_as_it_stands(raw: str) -> None:
    assert DagLog().read(raw) == LogLine(raw.rstrip("\n"))

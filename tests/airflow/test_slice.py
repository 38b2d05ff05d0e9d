"""Slices and intervals as Airflow gives them: a task's own in a DAG run, and the run's data interval."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.airflow.conftest import RunDag, RunFile
from tests.airflow.home import TASK
from tests.support.database import Database

_APPEND = """\
def fail_once(context, result=None):
    if context["ti"].try_number == 1:
        raise OSError("the worker is lost after the copy")
SafeCopyOperator(
    task_id="복사", source_conn_id="erp", target_conn_id="dw", source_table="영업.고객", target_table="분석.고객",
    write_mode="append", retries=1, retry_delay=datetime.timedelta(0), post_execute=fail_once,
)
"""

_BACKFILL = """\
import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator
with DAG(
    "채우기", schedule=CronDataIntervalTimetable("@daily", "UTC"), start_date=datetime.datetime(2026, 1, 1), catchup=False
):
    SafeCopyOperator(
        task_id="복사", source_conn_id="erp", target_conn_id="dw", source_table="영업.주문", target_table="분석.주문",
        write_mode="incremental", cursor_column="변경",
        interval_start="{{ data_interval_start }}", interval_end="{{ data_interval_end }}",
    )
"""


def test_a_retry_of_a_task_appends_nothing_twice_and_the_next_run_appends_again(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    _, target = tables
    target.execute("ALTER TABLE 분석.고객 DROP CONSTRAINT 고객_pkey")
    ran = run_dag(_APPEND)
    assert (ran.state, ran.tries[TASK]) == ("success", 2)
    assert ran.result["status"] == "already_published"
    assert ran.result["slice"].endswith(f" {TASK}")
    assert target.value("SELECT count(*) FROM 분석.고객") == 4
    assert run_dag(_APPEND).state == "success"
    assert target.value("SELECT count(*) FROM 분석.고객") == 7
    assert target.value("SELECT count(DISTINCT slice) FROM safecopy.receipt") == 2


def test_the_data_interval_of_a_run_is_what_it_copies(
    tables: tuple[Database, Database], run_file: RunFile, tmp_path: Path
) -> None:
    source, target = tables
    for database, schema in ((source, "영업"), (target, "분석")):
        database.execute(f"CREATE TABLE {schema}.주문 (번호 int PRIMARY KEY, 변경 timestamptz)")
    source.execute(
        "INSERT INTO 영업.주문 SELECT g, '2026-11-17 00:00+00'::timestamptz + g * interval '12 hours' FROM generate_series(0, 9) g"
    )
    file = tmp_path / "backfill.py"
    file.write_text(_BACKFILL, "utf-8")
    for day, hour in ((18, 0), (18, 6), (17, 0)):  # of a run by hand the interval that ended last
        ran = run_file(file, "채우기", datetime(2026, 11, day + 1, hour, tzinfo=UTC))
        assert ran.state == "success"
        assert ran.result["slice"] == f"2026-11-{day} 00:00:00+00/2026-11-{day + 1} 00:00:00+00"
    assert [number for (number,) in target.rows("SELECT 번호 FROM 분석.주문 ORDER BY 1")] == [0, 1, 2, 3]

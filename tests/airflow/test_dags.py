"""The example DAGs, as a stranger runs them: by Airflow's own commands, against the demo's tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy import sql
from tests.airflow.conftest import Connect, RunFile, dag_bag
from tests.airflow.home import AirflowHome
from tests.conftest import NothingLeft
from tests.support.database import Database

DAGS = Path(__file__).parents[2] / "dags"
LONG = "월별지역별상품군별매출실적및재고현황집계표"


@pytest.fixture
def sales(source: Database, target: Database, connect: Connect) -> tuple[Database, Database]:
    """The demo's tables, filled in the source and empty in the target."""
    for database, end, schema in ((source, "source", "영업"), (target, "target", "분석")):
        _demo(database, f"schema_of_{end}", "common")
        _demo(database, "tables", schema=schema)
    _demo(source, "customers", schema="영업", rows=300)
    _demo(source, "orders", schema="영업", rows=2000, customers=300)
    _demo(source, "sums", schema="영업")
    connect("erp", source)
    connect("dw", target)
    return source, target


def _demo(database: Database, *names: str, schema: str | None = None, **numbers: int) -> None:
    statements = sql.load("demo")
    with database.connect() as session:
        if schema is not None:
            session.execute(statements["search_path"], {"schema": schema})
        for name in names:
            session.execute(statements[name], numbers or None)


def _contents(database: Database, schema: str) -> Any:
    statements = sql.load("demo")
    with database.connect() as session:
        session.execute(statements["settings"])
        session.execute(statements["search_path"], {"schema": schema})
        return session.execute(statements["contents"]).fetchall()


def test_all_of_them_are_imported_without_an_error() -> None:
    bag = dag_bag(DAGS)
    assert not bag.import_errors
    assert set(bag.dags) == {"영업_복사", "영업_전체_복사", "일별_주문_복사", "세이프카피_청소"}


def test_they_run_one_at_a_time_and_do_not_catch_up() -> None:
    for dag in dag_bag(DAGS).dags.values():
        assert (dag.catchup, dag.max_active_runs) == (False, 1)


@pytest.mark.slow
def test_dags_test_copies_the_sales_tables(
    airflow: AirflowHome, sales: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = sales
    exit_code, said = airflow.run("dags", "test", "영업_복사", dags=DAGS)
    assert exit_code == 0, said
    ran = airflow.ran("영업_복사")
    assert ran.states == {"고객_복사": "success", "주문_내역_복사": "success", "매출_집계_복사": "success"}
    assert ran.results["주문_내역_복사"]["rows"] == 2000
    assert _contents(target, "분석") == _contents(source, "영업")
    assert "published in " in said
    assert said.count("::group::Transfer") >= 3
    nothing_left(source, target)


@pytest.mark.slow
def test_tasks_test_copies_one_of_them(airflow: AirflowHome, sales: tuple[Database, Database]) -> None:
    source, target = sales
    _, said = airflow.run("tasks", "test", "영업_복사", "매출_집계_복사", dags=DAGS)
    count = f'SELECT count(*) FROM {{}}."{LONG}"'
    assert target.value(count.format("분석")) == source.value(count.format("영업")) > 0, said


def test_a_day_of_orders_is_the_run_s_data_interval(sales: tuple[Database, Database], run_file: RunFile) -> None:
    source, target = sales
    ran = run_file(DAGS / "sales_orders_of_the_day.py", "일별_주문_복사", datetime(2024, 1, 3, tzinfo=UTC))
    assert ran.states == {"표_준비": "success", "주문_복사": "success"}
    # At midnight in London it is nine in Seoul: the last day that has ended there is the second.
    asked = "SELECT count(*), min(주문일시), max(주문일시) FROM "
    in_the_day = "주문일시 >= '2024-01-02 00:00+09' AND 주문일시 < '2024-01-03 00:00+09'"
    (orders,) = source.rows(f"{asked} 영업.주문_내역 WHERE {in_the_day}")
    assert target.rows(f"{asked} 분석.일별_주문") == [orders]
    assert orders[0] > 100


@pytest.mark.slow
def test_the_mapped_dag_copies_every_table_of_its_list(
    airflow: AirflowHome, sales: tuple[Database, Database], run_file: RunFile
) -> None:
    source, target = sales
    ran = run_file(DAGS / "sales_mapped.py", "영업_전체_복사")
    assert ran.states == {f"표_복사[{index}]": "success" for index in range(3)}
    assert _contents(target, "분석") == _contents(source, "영업")

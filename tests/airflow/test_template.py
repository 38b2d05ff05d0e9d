"""Templates, and what must not be taken for one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.airflow.conftest import RunCopy, RunDag
from tests.airflow.home import AirflowHome, copying
from tests.support.database import Database


def test_every_templated_option_is_rendered(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    source, target = tables
    body = copying(
        source_conn_id="{{ params.source }}",
        target_conn_id="{{ params.target }}",
        source_table="{{ params.schema }}.고객",
        target_table="분석.{{ params.table }}",
        columns={"번호": "{{ params.column }}", "이름": "이름"},
        where="번호 IN ({{ params.wanted | join(', ') }})",
        lock="{{ dag.dag_id }}",
    )
    params = {"source": "erp", "target": "dw", "schema": "영업", "table": "고객", "column": "번호", "wanted": [1, 3]}
    ran = run_dag(body, params=params)
    assert ran.state == "success"
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == source.rows(
        "SELECT * FROM 영업.고객 WHERE 번호 <> 2 ORDER BY 1"
    )
    assert ran.result["lock"].startswith("시험_")


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_stays_a_pair(tables: tuple[Database, Database], run_copy: RunCopy, kind: type) -> None:
    source, target = tables
    source.execute('CREATE TABLE 영업."주문.내역 ""1""" AS SELECT 7 AS 값')
    target.execute('CREATE TABLE 분석."x.y" (값 int)')
    ran = run_copy(source_table=kind(("{{ '영업' }}", '주문.내역 "1"')), target_table=kind(("분석", "x.y")))
    assert ran.state == "success"
    assert target.rows('TABLE 분석."x.y"') == [(7,)]


def test_a_table_called_like_a_file_is_a_table(tables: tuple[Database, Database], run_copy: RunCopy) -> None:
    source, target = tables
    source.execute('CREATE TABLE 영업."주문.sql" AS SELECT 1 AS "값.sql"')
    target.execute('CREATE SCHEMA x; CREATE TABLE x.sql ("값.sql" int)')
    ran = run_copy(source_table=("영업", "주문.sql"), target_table="x.sql", columns=["값.sql"])
    assert ran.state == "success"
    assert target.rows("TABLE x.sql") == [(1,)]


def test_a_query_that_ends_like_a_file_is_a_query(tables: tuple[Database, Database], run_copy: RunCopy) -> None:
    source, target = tables
    source.execute("CREATE SCHEMA x; CREATE TABLE x.sql AS SELECT 1::bigint AS 번호, '행'::text AS 이름")
    assert run_copy(source_sql="SELECT * FROM x.sql", target_table="분석.고객").state == "success"
    assert target.rows("TABLE 분석.고객") == [(1, "행")]


def test_a_query_may_come_from_a_file_beside_the_dag(
    tables: tuple[Database, Database], airflow: AirflowHome, run_dag: RunDag
) -> None:
    _, target = tables
    folder = airflow.dags / "질의"
    folder.mkdir(exist_ok=True)
    (folder / "고객.sql").write_text(
        "SELECT 번호, upper('{{ params.prefix }}') || 이름 AS 이름 FROM 영업.고객 WHERE 번호 = 1\n"
    )
    ran = run_dag(copying(source_sql="질의/고객.sql", target_table="분석.고객"), params={"prefix": "vip "})
    assert ran.state == "success"
    assert target.rows("TABLE 분석.고객") == [(1, "VIP 김하나")]


def test_a_file_that_is_not_there_fails_the_task(tables: tuple[Database, Database], run_copy: RunCopy) -> None:
    _, target = tables
    assert run_copy(source_sql="없는_질의.sql", target_table="분석.고객").state == "failed"
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]


def test_names_may_be_another_task_s_result(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    source, target = tables
    body = """\
from airflow.providers.common.compat.sdk import task
@task(multiple_outputs=False)
def names():
    return ["영업", "고객"]
SafeCopyOperator(
    task_id="복사", source_conn_id="erp", target_conn_id="dw", source_table=names(), target_table=("분석", "고객")
)"""
    # In ASCII: Airflow 3.2 under `dag.test()` cannot ask for a result by a Korean name, see `in_process`.
    ran = run_dag(body, name="names")
    assert ran.states == {"names": "success", "복사": "success"}
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == source.rows("TABLE 영업.고객 ORDER BY 1")


@pytest.mark.parametrize("rendered", ["{{ params.nothing }}", "{{ '' }}"])
def test_a_filter_that_renders_to_nothing_fails_instead_of_copying_everything(
    tables: tuple[Database, Database], run_dag: RunDag, rendered: str
) -> None:
    _, target = tables
    body = copying(source_table="영업.고객", target_table="분석.고객", where=rendered)
    assert run_dag(body, params={"nothing": " "}).state == "failed"
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]


def test_native_rendering_may_give_columns_as_a_list(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    body = copying(source_table="영업.고객", target_table="분석.고객", columns="{{ params.columns }}")
    params: dict[str, Any] = {"columns": ["번호"]}
    assert run_dag(body, params=params, render_template_as_native_obj=True).state == "success"
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == [(1, None), (2, None), (3, None)]

"""Mapped tasks that copy parts: two that would replace the same table are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.airflow.conftest import RunDag
from tests.airflow.home import TASK
from tests.support.database import Database

GIVEN: dict[str, Any] = {"task_id": TASK, "source_conn_id": "erp", "target_conn_id": "dw"}
NAMES: dict[str, Any] = {"source_table": "영업.고객", "target_table": "분석.고객"}
PARTS = ["번호 < 2", "번호 >= 2"]


def dag() -> Any:
    """A DAG to put tasks into; imported late, when Airflow has a home of the suite's."""
    from airflow.providers.common.compat.sdk import DAG

    return DAG("모음", schedule=None)


def operator() -> Any:
    from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

    return SafeCopyOperator


def refused() -> Any:
    """Return the error of parsing a DAG that makes no sense."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    return pytest.raises(AirflowFailException, match="would replace all rows")


def mapped(given: dict[str, Any], over: dict[str, Any]) -> None:
    """Parse a DAG of one mapped task."""
    with dag():
        operator().partial(**GIVEN, **given).expand(**over)


@pytest.mark.parametrize(
    "over", [{"where": PARTS}, {"source_conn_id": ["erp", "crm"]}, {"source_table": ["영업.고객", "영업.고객.명부"]}]
)
def test_parts_of_one_table_that_replace_it_are_refused_when_the_dag_is_parsed(over: dict[str, Any]) -> None:
    """Whatever the instances read, each would silently replace what the one before it wrote."""
    given = {name: value for name, value in (GIVEN | NAMES).items() if name not in over}
    with dag(), refused():
        operator().partial(**given).expand(**over)


@pytest.mark.parametrize(
    "given, over",
    [
        (NAMES | {"write_mode": "upsert"}, {"where": PARTS}),
        (NAMES | {"write_mode": "append"}, {"where": PARTS}),
        (NAMES | {"target_table": "분석.고객_{{ ti.map_index }}"}, {"where": PARTS}),
        ({"source_table": "영업.고객"}, {"where": PARTS, "target_table": ["분석.가", "분석.나"]}),
        (NAMES | {"dry_run": True}, {"where": PARTS}),
    ],
)
def test_parts_that_do_not_overwrite_each_other_are_not(given: dict[str, Any], over: dict[str, Any]) -> None:
    mapped(given, over)


def test_a_task_in_a_mapped_group_is_refused_as_well() -> None:
    from airflow.providers.common.compat.sdk import task_group

    @task_group
    def parts(where: str) -> None:
        operator()(**GIVEN, **NAMES, where=where)

    with dag(), refused():
        parts.expand(where=PARTS)


@pytest.mark.slow
def test_what_only_a_run_can_know_is_refused_before_anything_is_touched(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    """If arguments are known only at run time, the second instance finds the receipt of the first."""
    _, target = tables
    ran = run_dag(f"""\
SafeCopyOperator.partial(**{GIVEN!r}).expand_kwargs([dict({NAMES!r}, where=part) for part in {PARTS!r}])""")
    assert sorted(ran.states.values()) == ["failed", "success"]
    assert target.value("SELECT count(*) FROM safecopy.receipt") == 1
    again = run_dag(f"""\
SafeCopyOperator.partial(**{GIVEN!r}).expand_kwargs([{NAMES!r}])""")
    assert list(again.states.values()) == ["success"], "another run may"

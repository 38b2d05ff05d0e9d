"""The operator takes the options that a spec declares, as Airflow reads them from its signature."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tests.airflow.conftest import RunDag
from tests.airflow.home import TASK
from tests.support.database import Database
from tests.support.dummy_option import DummySpec

GIVEN: dict[str, Any] = {"task_id": TASK, "source_conn_id": "erp", "target_conn_id": "dw"}
NAMES: dict[str, Any] = {"source_table": "영업.고객", "target_table": "분석.고객"}


def operator() -> Any:
    from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

    return SafeCopyOperator


def dag(**parameters: Any) -> Any:
    from airflow.providers.common.compat.sdk import DAG

    return DAG("옵션", schedule=None, **parameters)


def dummy() -> Any:
    """Return an operator that takes the options of `DummySpec`."""
    from airflow_provider_safecopy.operators.safecopy import list_templates, with_options

    class DummyOperator(operator()):  # type: ignore[misc]
        spec_type = DummySpec
        template_fields = (*operator().template_fields, *list_templates(DummySpec))

        @with_options(DummySpec)
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)

    return DummyOperator


@pytest.mark.usefixtures("airflow")
def test_a_declared_option_is_one_of_the_operator() -> None:
    kind = dummy()
    task = kind(**GIVEN, **NAMES, paint_colour="{{ ds }}", dots=5)
    assert (task.paint_colour, "paint_colour" in kind.template_fields) == ("{{ ds }}", True)
    assert task.options()["dots"] == 5
    assert task.options()["paint_colour"] == "later"
    parameters = inspect.signature(kind.__init__).parameters
    assert (parameters["dots"].default, parameters["dots"].annotation) == (3, "int")
    assert ":param paint_colour: Colour beside `min_rows`. (templated)" in kind.__init__.__doc__
    with dag(default_args={"dots": 7}):
        assert kind(**GIVEN, **NAMES).settled["dots"] == 7
    with dag():
        kind.partial(**GIVEN, **NAMES, write_mode="upsert", dots=7).expand(paint_colour=["빨강", "파랑"])


@pytest.mark.usefixtures("airflow")
def test_a_declared_option_is_checked_when_the_dag_is_parsed() -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    with pytest.raises(AirflowFailException, match="dots=-1"):
        dummy()(**GIVEN, **NAMES, dots=-1)


@pytest.mark.usefixtures("airflow")
def test_default_args_give_options_their_values() -> None:
    with dag(default_args={"parallel": 2, "stall_timeout": 60, "where": "번호 < 3", **GIVEN}):
        task = operator()(task_id=TASK, **NAMES, parallel=3)
    assert task.where == "번호 < 3"
    assert task.settled == {"parallel": 3, "stall_timeout": 60}


@pytest.mark.usefixtures("airflow")
@pytest.mark.parametrize("given", [{"nonsense": 1}, {"paint_colour": "빨강"}, {"timeout": 5}])
def test_an_unknown_argument_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(iter(given))):  # a TypeError, or an AirflowException before 3.0
        operator()(**GIVEN, **NAMES, **given)
    with dag(), pytest.raises(TypeError, match="unexpected keyword argument"):
        operator().partial(**GIVEN, **given)


@pytest.mark.usefixtures("airflow")
def test_a_missing_connection_is_refused() -> None:
    with pytest.raises(Exception, match="missing keyword argument 'target_conn_id'"):
        operator()(task_id=TASK, source_conn_id="erp", **NAMES)


@pytest.mark.usefixtures("airflow")
def test_an_old_name_warns_the_dag_s_own_line_and_means_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match="slice is deprecated.*use append_key") as met:
        task = operator()(**GIVEN, **NAMES, write_mode="append", slice="{{ ds }}")
    assert [each.filename for each in met if "slice" in str(each.message)] == [__file__]
    assert task.append_key == "{{ ds }}"
    with dag(default_args={"allow_empty": True}), pytest.warns(DeprecationWarning, match="use min_rows=0"):
        assert operator()(**GIVEN, **NAMES).settled == {"min_rows": 0}


@pytest.mark.usefixtures("airflow")
def test_old_names_are_no_second_options() -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    with (
        pytest.warns(DeprecationWarning, match="allow_empty"),
        pytest.raises(AirflowFailException, match="allow_empty contradicts min_rows"),
    ):
        operator()(**GIVEN, **NAMES, allow_empty=True, min_rows=5)
    with pytest.raises(AirflowFailException, match="allow_empty='false' must be bool"):
        operator()(**GIVEN, **NAMES, allow_empty="false")


def test_mapped_tasks_take_an_old_name(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    target.execute("ALTER TABLE 분석.고객 DROP CONSTRAINT 고객_pkey")
    ran = run_dag(f"""\
SafeCopyOperator.partial(
    task_id={TASK!r}, source_conn_id="erp", target_conn_id="dw", source_table="영업.고객", target_table="분석.고객",
    write_mode="append",
).expand(slice=["{{{{ ds }}}} 하나", "{{{{ ds }}}} 둘"])""")
    assert set(ran.states.values()) == {"success"}
    slices = [ran.results[f"{TASK}[{index}]"]["slice"] for index in (0, 1)]
    assert [each.split()[-1] for each in slices] == ["하나", "둘"]
    assert not any("{" in each for each in slices)

"""A table that is exchanged while its copy is planned is no reason to give the copy up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError
from airflow_provider_safecopy.planning import column_match, page_ranges, row_checks
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.publish import schema_drift, strategy_choice
from airflow_provider_safecopy.spec import CopySpec
from tests.support.database import Database

SHAPE = "CREATE TABLE public.t (id bigint PRIMARY KEY, note text); INSERT INTO public.t VALUES (1, 'a'), (2, 'b')"
ANEW = f"DROP TABLE public.t; {SHAPE}"
MOMENTS = {
    "after its columns": (schema_drift, "match"),
    "before its types are compared": (column_match, "check_pairs"),
    "before it is explained": (row_checks, "estimate"),
    "before its pages are counted": (page_ranges, "choose_page_ranges"),
}
SPEC = CopySpec(
    source_table=TableName("public", "t"),
    target_table=TableName("public", "t"),
    parallel=2,
    publish="delete_insert",
    min_rows=0,
)


@pytest.fixture
def ends(source: Database, target: Database) -> tuple[Database, Database]:
    source.execute(SHAPE)
    target.execute(SHAPE)
    return source, target


def exchanging(mocker: MockerFixture, moment: tuple[Any, str], database: Database, how: str, times: int) -> None:
    """Exchange the table at this moment of the next so many plans."""
    module, name = moment
    real = getattr(module, name)
    left = [how] * times

    def ask(*args: Any, **kwargs: Any) -> Any:
        if left:
            database.execute(left.pop())
        return real(*args, **kwargs)

    mocker.patch.object(module, name, ask)


def copy_one(source: Database, target: Database) -> Any:
    return pipeline.copy(SPEC, source.endpoint, target.endpoint)


def copy_batch(source: Database, target: Database) -> Any:
    return pipeline.copy_tables([SPEC], source.endpoint, target.endpoint)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_source_exchanged_once_is_copied(ends: tuple[Database, Database], mocker: MockerFixture, moment: str) -> None:
    source, target = ends
    exchanging(mocker, MOMENTS[moment], source, ANEW, times=1)
    assert pipeline.copy(SPEC, source.endpoint, target.endpoint).rows == 2


@pytest.mark.parametrize("how", [ANEW, f"ALTER TABLE public.t RENAME TO old; DROP TABLE public.old; {SHAPE}"])
@pytest.mark.parametrize("copy", [copy_one, copy_batch])
def test_a_source_exchanged_during_each_plan_is_worth_a_retry(
    ends: tuple[Database, Database], mocker: MockerFixture, how: str, copy: Callable[..., Any]
) -> None:
    """Planned without its table it "cannot be divided", which no retry would change."""
    source, target = ends
    exchanging(mocker, MOMENTS["before its pages are counted"], source, how, times=2)
    with pytest.raises(PlanError) as caught:
        copy(source, target)
    (refused,) = caught.value.refusals
    assert (refused.code, refused.table, caught.value.retryable) == ("source_changed", "public.t", True)
    mocker.stopall()
    assert copy_one(source, target).rows == 2


def test_a_target_exchanged_during_each_plan_is_worth_a_retry(
    ends: tuple[Database, Database], mocker: MockerFixture
) -> None:
    source, target = ends
    exchanging(mocker, (strategy_choice, "choose"), target, ANEW, times=2)
    with pytest.raises(PlanError) as caught:
        pipeline.copy(replace(SPEC, publish="delta"), source.endpoint, target.endpoint)
    (refused,) = caught.value.refusals
    assert (refused.code, refused.table, caught.value.retryable) == ("target_changed", "public.t", True)


def test_what_speaks_against_a_table_that_stays_is_told_as_ever(ends: tuple[Database, Database]) -> None:
    source, target = ends
    source.execute("CREATE VIEW public.v AS SELECT * FROM public.t")
    spec = replace(SPEC, source_table=TableName("public", "v"))
    with pytest.raises(PlanError, match="cannot be divided") as caught:
        pipeline.copy(spec, source.endpoint, target.endpoint)
    assert not caught.value.retryable

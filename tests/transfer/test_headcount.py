"""The headcount: what the target held before is known without anybody having waited for it."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError
from airflow_provider_safecopy.transfer import headcount
from airflow_provider_safecopy.transfer.headcount import Headcount
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.timeouts import Timeouts
from tests.conftest import NothingLeft
from tests.ground.customers import TABLE, spec
from tests.ground.database import Database


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headcount, "LARGE_BYTES", 0)


@pytest.fixture
def plan(filled: tuple[Database, Database]) -> CopyPlan:
    source, target = filled
    return pipeline.plan(spec(publish="swap", timeouts=Timeouts(verify=30)), source.endpoint, target.endpoint)


def begun(plan: CopyPlan, target: Database) -> Headcount:
    return Headcount.of(plan, target.endpoint, application_name="safecopy:셈")


def test_it_counts_what_is_there(plan: CopyPlan, filled: tuple[Database, Database]) -> None:
    _, target = filled
    counted = begun(plan, target)
    assert counted.answer(AbortSwitch()) == 2
    counted.close()


def test_a_copy_reports_it(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    for previous in (2, 2000):
        report = pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
        assert (report.previous_rows, report.deleted, report.rows) == (previous, previous, 2000)
    nothing_left(source, target)


def test_a_guard_judges_by_the_latest_count_instead(filled: tuple[Database, Database]) -> None:
    source, target = filled
    guarded = pipeline.plan(spec(publish="swap", max_shrink=50), source.endpoint, target.endpoint)
    assert begun(guarded, target).answer(AbortSwitch()) is None
    delta = pipeline.plan(spec(publish="delta"), source.endpoint, target.endpoint)
    assert begun(delta, target).answer(AbortSwitch()) is None


def test_a_table_others_have_locked_is_not_waited_for(
    plan: CopyPlan, filled: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, target = filled
    monkeypatch.setattr(headcount, "_LOCK_SECONDS", 0.05)
    with target.connect() as other:
        other.execute(f"BEGIN; LOCK TABLE {TABLE}".encode())
        assert begun(plan, target).answer(AbortSwitch()) is None


def test_it_obeys_an_abort(
    plan: CopyPlan, filled: tuple[Database, Database], nothing_left: NothingLeft, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = filled
    monkeypatch.setattr(headcount, "_LOCK_SECONDS", 60.0)
    abort = AbortSwitch()
    with target.connect() as other:
        other.execute(f"BEGIN; LOCK TABLE {TABLE}".encode())
        counted = begun(plan, target)
        abort.throw("시험")
        with pytest.raises(AbortedError):
            counted.answer(abort)
    nothing_left(source, target)


def test_a_session_that_is_not_to_be_had_costs_only_the_number(
    plan: CopyPlan, filled: tuple[Database, Database]
) -> None:
    _, target = filled
    lost = Headcount.of(plan, target.through(1).endpoint, application_name="safecopy:셈")
    assert lost.answer(AbortSwitch()) is None

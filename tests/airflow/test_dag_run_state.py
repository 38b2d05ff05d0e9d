"""What Airflow knows of a holder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.lock.model import Holder, Member
from tests.airflow.conftest import RunCopy, RunDag
from tests.conftest import NothingLeft
from tests.support.database import Database

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OWN = {"dag": "영업_복사", "run": "수동_1", "deployment": "운영", "started": "2026-03-01T00:00:00.000000+00:00"}
ATTEMPTS = [str(uuid4()), str(uuid4())]

HELD_BY_A_RUN_THAT_ENDS = """\
from airflow.providers.common.compat.sdk import task
from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
from airflow_provider_safecopy.operators.common import build_contender
@task(task_id="복사")
def hold(**context):
    owner = {owner!r}
    contender = build_contender(context, detached=True)
    if owner:
        from dataclasses import replace
        contender = replace(contender, owner=dict(contender.owner) | owner)
    SafeCopyHook(target_conn_id="dw").living_lock("분석.고객", contender=contender).acquire().store.close()
hold()"""


def _holder(**owner: str) -> Holder:
    members = tuple(Member("고객_복사", attempt, 1, None, 0, 0, NOW) for attempt in ATTEMPTS)
    due = NOW + timedelta(minutes=10)
    return Holder("분석.고객", 1, "|".join(owner.values()), owner, members, NOW, NOW, NOW, due, NOW)


def _judged(holder: Holder, own: Mapping[str, str] = OWN, *, cleared: bool | None = True) -> list[str]:
    from airflow_provider_safecopy.hooks.dag_run_state import build_liveness_check

    return list(build_liveness_check(own, cleared=cleared)(holder))


@pytest.fixture
def state(mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What Airflow answers when it is asked for the state of a run; this Airflow is called 운영."""
    monkeypatch.setenv("AIRFLOW__SAFECOPY__DEPLOYMENT_ID", "운영")
    return mocker.patch("airflow_provider_safecopy.hooks.dag_run_state._read_state", return_value=_run("running"))


def _run(state: str | None, started: str | None = OWN["started"]) -> Any:
    from airflow_provider_safecopy.hooks.dag_run_state import Run

    return Run(state, started)


@pytest.mark.parametrize("said, gone", [("success", ATTEMPTS), ("failed", ATTEMPTS), ("running", []), (None, [])])
def test_all_attempts_of_a_run_that_is_over_are_gone(state: Any, said: str, gone: list[str]) -> None:
    state.return_value = _run(said)
    assert _judged(_holder(**OWN | {"run": "수동_0"})) == gone
    state.assert_called_once_with("영업_복사", "수동_0")


@pytest.mark.parametrize(
    "owner",
    [OWN | {"deployment": "개발"}, {"mode": "tasks test", "dag": "영업_복사"}, {"owner": "김하나", "host": "dw1"}],
)
def test_of_others_nothing_is_claimed_and_nothing_asked(state: Any, owner: dict[str, str]) -> None:
    state.return_value = _run("success")
    assert _judged(_holder(**owner)) == []
    state.assert_not_called()


def test_what_cannot_be_asked_is_not_known(state: Any, caplog: pytest.LogCaptureFixture) -> None:
    state.side_effect = RuntimeError("the API is away")
    assert _judged(_holder(**OWN | {"run": "수동_0"})) == []
    assert "the API is away" in caplog.text


def test_an_earlier_incarnation_of_our_own_run_is_gone(state: Any) -> None:
    earlier = OWN | {"started": "2026-02-28T23:59:59.999999+00:00"}
    assert _judged(_holder(**earlier)) == ATTEMPTS
    # But the earlier one, a zombie by now, cannot judge its successor; nor does anybody judge himself.
    assert _judged(_holder(**OWN), own=earlier) == []
    assert _judged(_holder(**OWN)) == []


@pytest.mark.parametrize("name", ["운영", ""])
@pytest.mark.parametrize("said", ["success", "failed"])
def test_a_run_of_the_same_ids_that_started_at_another_time_is_another_airflows(
    state: Any, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """Two Airflows of one name have runs of the same ids: what is over here says nothing of the run over there."""
    from airflow_provider_safecopy.hooks.dag_run_state import name_deployment

    monkeypatch.setenv("AIRFLOW__SAFECOPY__DEPLOYMENT_ID", name)
    state.return_value = _run(said, "2026-03-01T00:00:07.000000+00:00")
    theirs = OWN | {"run": "수동_0", "deployment": name_deployment()}
    assert _judged(_holder(**theirs)) == []
    state.return_value = _run(said)
    assert _judged(_holder(**theirs)) == ATTEMPTS


@pytest.mark.parametrize("name, gone", [("운영", ATTEMPTS), ("", [])])
def test_where_airflow_does_not_say_when_a_run_started_only_a_given_name_tells_whose_it_is(
    state: Any, monkeypatch: pytest.MonkeyPatch, name: str, gone: list[str]
) -> None:
    from airflow_provider_safecopy.hooks.dag_run_state import name_deployment

    monkeypatch.setenv("AIRFLOW__SAFECOPY__DEPLOYMENT_ID", name)
    state.return_value = _run("success", None)
    assert _judged(_holder(**OWN | {"run": "수동_0", "deployment": name_deployment()})) == gone


@pytest.mark.parametrize("cleared, gone", [(True, ATTEMPTS), (False, []), (None, ATTEMPTS)])
def test_a_run_that_was_never_cleared_has_no_former_incarnation(
    state: Any, cleared: bool | None, gone: list[str]
) -> None:
    """An earlier run of the same ids is then another Airflow's: the same schedule, some seconds before ours."""
    del state
    earlier = OWN | {"started": "2026-02-28T23:59:59.999999+00:00"}
    assert _judged(_holder(**earlier), cleared=cleared) == gone


def test_whether_a_former_incarnation_is_ours_is_not_known_under_a_default_name(
    state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_safecopy.hooks.dag_run_state import name_deployment

    del state
    monkeypatch.setenv("AIRFLOW__SAFECOPY__DEPLOYMENT_ID", "")
    own = OWN | {"deployment": name_deployment()}
    earlier = own | {"started": "2026-02-28T23:59:59.999999+00:00"}
    assert _judged(_holder(**earlier), own, cleared=None) == []


def test_a_living_run_of_another_airflow_of_the_same_name_keeps_its_lock(
    tables: tuple[Database, Database], run_dag: RunDag, run_copy: RunCopy
) -> None:
    """Its ids are those of a run that is over here; when it started is not."""
    _, target = tables
    started = "2020-01-01T00:00:00.000000+00:00"
    assert run_dag(HELD_BY_A_RUN_THAT_ENDS.format(owner={"started": started})).state == "success"
    assert run_copy(source_table="영업.고객", target_table="분석.고객").state == "failed"
    assert target.rows("SELECT kind FROM safecopy.lock_event WHERE kind LIKE 'takeover%'") == []
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]


def test_a_lock_whose_run_is_over_is_taken_at_once(
    tables: tuple[Database, Database], run_dag: RunDag, run_copy: RunCopy, nothing_left: NothingLeft
) -> None:
    source, target = tables
    assert run_dag(HELD_BY_A_RUN_THAT_ENDS.format(owner={})).state == "success"
    assert target.value("SELECT lease_id IS NOT NULL FROM safecopy.lock")
    ran = run_copy(source_table="영업.고객", target_table="분석.고객")
    assert (ran.state, ran.result["token"]) == ("success", 2)
    assert target.value("SELECT kind FROM safecopy.lock_event WHERE token = 2 ORDER BY id LIMIT 1") == "takeover-dead"
    nothing_left(source, target)


def test_a_lock_of_another_airflow_is_not(
    tables: tuple[Database, Database], run_dag: RunDag, run_copy: RunCopy
) -> None:
    _, target = tables
    run_dag(HELD_BY_A_RUN_THAT_ENDS.format(owner={"deployment": "다른_곳"}))
    assert run_copy(source_table="영업.고객", target_table="분석.고객").state == "failed"
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]

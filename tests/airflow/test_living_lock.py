"""A group of tasks as one guarded run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender
from tests.airflow.conftest import RunDag
from tests.conftest import NothingLeft
from tests.support.database import Database

HEAD = """\
import datetime
from airflow.providers.common.compat.sdk import TaskGroup, get_current_context, task
from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
from airflow_provider_safecopy.operators.common import build_contender
from airflow_provider_safecopy.operators.living_lock import LivingLockGroup, joined
COPY = dict(source_conn_id="erp", target_conn_id="dw", source_table="영업.고객", target_table="분석.고객")
@task(task_id="집계", do_xcom_push=False)
def sum_up(number=0):
    with joined() as lock:
        lock.heartbeat()
        SafeCopyHook(target_conn_id="dw")
"""
LOCK = "야간 작업"


def _group(body: str, **parameters: Any) -> str:
    given = {"group_id": "한벌", "target_conn_id": "dw", "lock": LOCK} | parameters
    inside = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{HEAD}with LivingLockGroup({', '.join(f'{name}={value!r}' for name, value in given.items())}):\n{inside}"


def _events(target: Database, name: str = LOCK) -> list[tuple[str, str]]:
    return [
        (kind, member)
        for kind, member in target.rows(
            "SELECT kind, member_key FROM safecopy.lock_event WHERE name = %s ORDER BY id", [name]
        )
    ]


@contextmanager
def _held_by_another(target: Database) -> Iterator[LivingLock]:
    with target.connect() as session:
        schema.init(session)
    with LivingLock(LOCK, target.conninfo, contender=Contender.alone("다른 실행")) as lock:
        yield lock


@pytest.mark.slow
def test_everything_inside_is_one_run(
    tables: tuple[Database, Database], run_dag: RunDag, nothing_left: NothingLeft
) -> None:
    source, target = tables
    ran = run_dag(
        _group("""\
copied = SafeCopyOperator(task_id="복사", **COPY)
with TaskGroup("안쪽"):
    copied >> sum_up.expand(number=[1, 2])""")
    )
    assert set(ran.states.values()) == {"success"}
    assert ran.states.keys() == {
        "한벌.acquire_lock",
        "한벌.복사",
        "한벌.안쪽.집계[0]",
        "한벌.안쪽.집계[1]",
        "한벌.release_lock",
    }
    assert ran.results["한벌.복사"]["lock"] == LOCK
    members = ["한벌.복사", "한벌.안쪽.집계[0]", "한벌.안쪽.집계[1]"]
    events = _events(target)
    assert events[0] == ("grant", "한벌.acquire_lock")
    assert sorted(events[1:-1], key=lambda event: event[1]) == [
        event for member in members for event in (("join", member), ("leave", member))
    ]
    assert events[-1] == ("release", "한벌.acquire_lock")
    assert target.rows("SELECT token, stale_after = '1 hour' FROM safecopy.lock WHERE name = %s", [LOCK]) == [(1, True)]
    nothing_left(source, target)


def test_the_lock_is_called_as_the_dag_when_nobody_names_it(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    run_dag(_group("sum_up()", lock=None))
    (name,) = target.rows("SELECT name FROM safecopy.lock")[0]
    assert name.startswith("시험_")


def test_name_and_connection_may_be_templates(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    body = _group(
        'SafeCopyOperator(task_id="복사", **COPY)', lock="{{ params.lock }}", target_conn_id="{{ params.dw }}"
    )
    ran = run_dag(body, params={"lock": "야간", "dw": "dw"})
    assert set(ran.states.values()) == {"success"}
    assert [kind for kind, _ in _events(target, "야간")] == ["grant", "join", "leave", "release"]


@pytest.mark.parametrize(
    "on_busy, acquired, inside", [("fail", "failed", "upstream_failed"), ("skip", "skipped", "skipped")]
)
def test_a_second_run_is_refused_or_skipped_as_a_whole(
    tables: tuple[Database, Database], run_dag: RunDag, on_busy: str, acquired: str, inside: str
) -> None:
    _, target = tables
    with _held_by_another(target) as lock:
        ran = run_dag(_group('SafeCopyOperator(task_id="복사", **COPY) >> sum_up()', on_busy=on_busy))
        lock.heartbeat()
    assert ran.states == {
        "한벌.acquire_lock": acquired,
        "한벌.복사": inside,
        "한벌.집계": inside,
        "한벌.release_lock": inside,
    }
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]


def test_it_is_released_when_something_inside_fails(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    ran = run_dag(_group('SafeCopyOperator(task_id="복사", **COPY | {"source_table": "영업.없는_표"}) >> sum_up()'))
    assert ran.states == {
        "한벌.acquire_lock": "success",
        "한벌.복사": "failed",
        "한벌.집계": "upstream_failed",
        "한벌.release_lock": "success",
    }
    assert _events(target)[-1] == ("release", "한벌.acquire_lock")
    assert target.value("SELECT lease_id IS NULL FROM safecopy.lock WHERE name = %s", [LOCK])


def test_a_failure_inside_fails_the_run_though_the_release_succeeds(
    tables: tuple[Database, Database], run_dag: RunDag, airflow: Any
) -> None:
    run_dag(_group('SafeCopyOperator(task_id="복사", **COPY | {"source_table": "영업.없는_표"})'))
    assert airflow._ask("SELECT state FROM dag_run ORDER BY id DESC LIMIT 1") == [("failed",)]


def test_whoever_the_run_left_behind_is_fenced_out(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    ran = run_dag(
        _group(f"""\
@task(task_id="떠나지_않는", do_xcom_push=False)
def stay(**context):
    hook = SafeCopyHook(target_conn_id="dw")
    hook.living_lock({LOCK!r}, contender=build_contender(context)).acquire().store.close()
stay()""")
    )
    assert ran.states["한벌.release_lock"] == "success"
    assert target.rows("SELECT token, lease_id IS NULL FROM safecopy.lock") == [(1, True)]
    assert target.rows("TABLE safecopy.member") == []
    assert _events(target)[-2:] == [("leave", "한벌.떠나지_않는"), ("release", "한벌.acquire_lock")]


@pytest.mark.parametrize("inside", ['SafeCopyOperator(task_id="참가", **COPY)', 'sum_up.override(task_id="참가")()'])
def test_nothing_goes_on_under_a_lock_that_was_lost_in_between(
    tables: tuple[Database, Database], run_dag: RunDag, inside: str
) -> None:
    _, target = tables
    ran = run_dag(
        _group(
            f"""\
@task(task_id="빼앗김", do_xcom_push=False)
def lose():
    SafeCopyHook(target_conn_id="dw").lock_store().force_release({LOCK!r}, reason="시험")
lose() >> {inside}""",
            default_args={"retries": 1},
        )
    )
    assert ran.states["한벌.참가"] == "failed"
    assert ran.tries["한벌.참가"] == 1
    assert ran.states["한벌.release_lock"] == "success"
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]


def test_retries_supersede_the_try_before(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    ran = run_dag(
        HEAD
        + f"""\
NOW = {{"retries": 1, "retry_delay": datetime.timedelta(0)}}
def fail_once(context, result=None):
    if context["ti"].try_number == 1:
        raise ValueError("once")
@task(task_id="두번", do_xcom_push=False, **NOW)
def twice(**context):
    hook = SafeCopyHook(target_conn_id="dw")
    hook.living_lock({LOCK!r}, contender=build_contender(context)).acquire().store.close()
    fail_once(context)
with LivingLockGroup("한벌", target_conn_id="dw", lock={LOCK!r}, default_args=NOW) as group:
    group.setup._post_execute_hook = fail_once
    twice()"""
    )
    assert set(ran.states.values()) == {"success"}, ran
    assert (ran.tries["한벌.acquire_lock"], ran.tries["한벌.두번"]) == (2, 2)
    kinds = [kind for kind, _ in _events(target)]
    assert kinds == ["grant", "supersede", "join", "supersede", "leave", "release"]


def test_a_copy_into_another_database_is_not_guarded_by_it(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    ran = run_dag(
        _group("""\
SafeCopyOperator(task_id="복사", **COPY | {"target_conn_id": "erp", "target_table": "영업.고객"})""")
    )
    assert ran.states["한벌.복사"] == "failed"


def test_a_lock_of_one_s_own_is_held_instead_of_the_group_s(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    ran = run_dag(_group('SafeCopyOperator(task_id="복사", lock="따로", **COPY)'))
    assert ran.results["한벌.복사"]["lock"] == "따로"
    assert _events(target) == [("grant", "한벌.acquire_lock"), ("release", "한벌.acquire_lock")]


def test_two_groups_cannot_be_nested_and_nobody_joins_outside_of_one(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    nested = _group("""\
try:
    LivingLockGroup("안쪽", target_conn_id="dw")
except Exception as error:
    refused = str(error)
task(task_id="복사")(lambda: None)()
assert "inside another group under a lock" in refused""")
    assert run_dag(nested).states["한벌.복사"] == "success"
    assert run_dag(HEAD + "sum_up()").states == {"집계": "failed"}


def test_two_groups_cannot_be_nested_at_any_depth(run_dag: RunDag, tables: tuple[Database, Database]) -> None:
    """Nor by way of a mapped group: refused when the DAG is parsed."""
    nested = _group("""\
from airflow.providers.common.compat.sdk import task_group
@task_group(group_id="지역별")
def each(region):
    with TaskGroup("사이"):
        try:
            LivingLockGroup("안쪽", target_conn_id="dw", lock="다른 락")
        except Exception as error:
            refused.append(str(error))
        task(task_id="복사")(lambda: None)()
refused = []
each.expand(region=["서울"])
assert "inside another group under a lock" in refused[0]""")
    assert run_dag(nested).states["한벌.지역별.사이.복사[0]"] == "success"


def test_in_airflow_tasks_test_each_task_guards_itself(
    tables: tuple[Database, Database], run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, target = tables
    monkeypatch.setenv("AIRFLOW_TEST_MODE", "True")
    ran = run_dag(_group('SafeCopyOperator(task_id="복사", **COPY) >> sum_up()'))
    assert set(ran.states.values()) == {"success"}
    members = ["한벌.acquire_lock", "한벌.복사", "한벌.집계"]
    assert _events(target) == [event for member in members for event in (("grant", member), ("release", member))]
    assert target.value("SELECT count(DISTINCT owner_key) FROM safecopy.lock_event WHERE name = %s", [LOCK]) == 3

"""Several groups and tasks of one run that share a lock: each leaves by itself, and only the last one frees it.

A release that frees the whole run's lock lets a second run in, and both are at work at once.
"""

from __future__ import annotations

from typing import Any

from tests.airflow.conftest import RunDag
from tests.airflow.test_living_lock import HEAD, LOCK, _events
from tests.conftest import NothingLeft
from tests.support.database import Database

TOOLS = (
    HEAD
    + f"""\
from airflow_provider_safecopy.errors import FencedOutError, LockBusyError
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.operators.common import build_contender
NAME = {LOCK!r}
GROUP = dict(target_conn_id="dw", lock=NAME)
hook = lambda: SafeCopyHook(target_conn_id="dw")
def members():
    holder = hook().lock_store().read_holder(NAME)
    return sorted(seen.member for seen in holder.members) if holder else []
@task(task_id="남", do_xcom_push=False)
def refuse_another(expected=None):
    # Another run asks for the lock, while this one is at work.
    assert expected is None or members() == expected, members()
    try:
        hook().living_lock(NAME, contender=Contender.alone("다른 실행")).acquire()
    except LockBusyError:
        return
    raise AssertionError("another run got the lock")
@task(task_id="남음", do_xcom_push=False)
def stay(**context):
    # Ends without having left the lock.
    hook().living_lock(NAME, contender=build_contender(context)).acquire().store.close()
"""
)


def _free(target: Database, name: str = LOCK) -> bool:
    return bool(target.value("SELECT lease_id IS NULL FROM safecopy.lock WHERE name = %s", [name]))


def _no_failure(ran: Any) -> None:
    assert set(ran.states.values()) == {"success"}, ran.states


def test_of_two_groups_side_by_side_the_first_release_leaves_the_lock_to_the_second(
    tables: tuple[Database, Database], run_dag: RunDag, nothing_left: NothingLeft
) -> None:
    source, target = tables
    ran = run_dag(
        TOOLS
        + """\
with LivingLockGroup("적재", **GROUP) as load:
    SafeCopyOperator(task_id="복사", **COPY)
with LivingLockGroup("추출", **GROUP) as extract:
    load.teardown >> refuse_another(["추출.acquire_lock"]) >> sum_up()
"""
    )
    _no_failure(ran)
    events = _events(target)
    assert events[0][0] == "grant"
    assert ("leave", "적재.acquire_lock") in events
    assert events[-1] == ("release", "추출.acquire_lock")
    assert _free(target)
    nothing_left(source, target)


def test_of_two_groups_one_after_the_other_both_do_their_work(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    """The second may begin before the first has released: a teardown is nothing that others wait for."""
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
with LivingLockGroup("먼저", **GROUP) as first:
    sum_up()
with LivingLockGroup("나중", **GROUP) as second:
    first.teardown >> refuse_another(["나중.acquire_lock"]) >> sum_up()
first >> second
"""
    )
    _no_failure(ran)
    assert _events(target)[-1] == ("release", "나중.acquire_lock")
    assert _free(target)


def test_a_group_that_begins_when_another_has_released_is_granted_the_lock_anew(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
with LivingLockGroup("먼저", **GROUP) as first:
    sum_up()
with LivingLockGroup("나중", **GROUP) as second:
    sum_up()
first.teardown >> second.setup
"""
    )
    _no_failure(ran)
    assert [kind for kind, _ in _events(target)] == ["grant", "join", "leave", "release"] * 2


def test_a_group_that_was_refused_takes_nothing_from_the_other(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    """Its first task has failed after it had acquired the lock: it released that, and the other group's is kept."""
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
with LivingLockGroup("적재", **GROUP) as load:
    sum_up()
with LivingLockGroup("추출", **GROUP) as extract:
    extract.setup.on_kill()
    sum_up()
load.setup >> extract.setup
for step in load.children.values():
    step is load.setup or extract.setup >> step
"""
    )
    assert ran.states["추출.acquire_lock"] == "failed"
    assert {ran.states[f"적재.{task}"] for task in ("acquire_lock", "release_lock")} == {"success"}
    events = _events(target)
    assert events[:3] == [("grant", "적재.acquire_lock"), ("join", "추출.acquire_lock"), ("leave", "추출.acquire_lock")]
    assert _free(target)


def test_what_one_group_left_behind_is_evicted_and_the_other_group_stays(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
with LivingLockGroup("적재", **GROUP) as load:
    stay()
with LivingLockGroup("추출", **GROUP) as extract:
    load.teardown >> refuse_another(["추출.acquire_lock"]) >> sum_up()
"""
    )
    _no_failure(ran)
    assert ("leave", "적재.남음") in _events(target)
    assert _free(target)


def test_a_task_with_the_same_lock_outside_of_the_group_keeps_it(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
with LivingLockGroup("한벌", **GROUP) as group:
    sum_up()
kept = stay()
kept >> group
group.teardown >> refuse_another(["남음"]) >> SafeCopyOperator(task_id="복사", lock=NAME, **COPY)
"""
    )
    _no_failure(ran)
    assert not _free(target)
    assert target.rows("SELECT member_key FROM safecopy.member WHERE name = %s", [LOCK]) == [("남음",)]


def test_instances_of_a_mapped_group_share_a_lock(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    """Each holds it by a first task of its own; the release of one leaves it to the others."""
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
from airflow.providers.common.compat.sdk import task_group
@task_group(group_id="지역별")
def each(region):
    with LivingLockGroup("한벌", **GROUP):
        refuse_another() >> SafeCopyOperator(task_id="복사", write_mode="upsert", **COPY) >> sum_up()
each.expand(region=["서울", "부산", "제주"])
"""
    )
    _no_failure(ran)
    events = _events(target)
    setups = {f"지역별.한벌.acquire_lock[{index}]" for index in range(3)}
    assert {member for kind, member in events if kind in ("grant", "join") and "acquire" in member} == setups
    assert [kind for kind, _ in events].count("release") == 1
    assert events[-1][0] == "release"
    assert _free(target)


def test_instances_of_a_mapped_group_evict_only_what_they_left_behind_themselves(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
from airflow.providers.common.compat.sdk import task_group
@task_group(group_id="지역별")
def each(region):
    with LivingLockGroup("한벌", **GROUP):
        stay()
each.expand(region=["서울", "부산"])
"""
    )
    _no_failure(ran)
    events = _events(target)
    for index in range(2):
        left = [member for kind, member in events if kind in ("leave", "release") and member.endswith(f"[{index}]")]
        assert left == [f"지역별.한벌.남음[{index}]", f"지역별.한벌.acquire_lock[{index}]"]
    assert _free(target)


def test_instances_of_a_mapped_group_may_have_a_lock_each(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    """By a template, or by what the group is mapped over."""
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
from airflow.providers.common.compat.sdk import task_group
@task_group(group_id="지역별")
def each(region):
    with LivingLockGroup("번호로", target_conn_id="dw", lock="적재 {{ ti.map_index }}"):
        sum_up()
    with LivingLockGroup("이름으로", target_conn_id="dw", lock=region):
        sum_up()
each.expand(region=["서울", "부산"])
"""
    )
    _no_failure(ran)
    for name in ("적재 0", "적재 1", "서울", "부산"):
        assert [kind for kind, _ in _events(target, name)] == ["grant", "join", "leave", "release"]


def test_a_mapped_group_inside_leaves_with_the_group_around_it(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
from airflow.providers.common.compat.sdk import task_group
@task_group(group_id="지역별")
def each(region):
    stay()
with LivingLockGroup("적재", **GROUP) as load:
    each.expand(region=["서울", "부산"])
with LivingLockGroup("추출", **GROUP) as extract:
    load.teardown >> refuse_another(["추출.acquire_lock"]) >> sum_up()
"""
    )
    _no_failure(ran)
    left = {member for kind, member in _events(target) if kind == "leave"}
    assert left >= {"적재.지역별.남음[0]", "적재.지역별.남음[1]", "적재.acquire_lock"}
    assert _free(target)


def test_a_group_is_released_though_its_first_task_left_no_result(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    _, target = tables
    ran = run_dag(
        TOOLS
        + """\
with LivingLockGroup("한벌", **GROUP) as group:
    sum_up()
group.setup.do_xcom_push = False
"""
    )
    _no_failure(ran)
    assert _free(target)

"""The one exam that all stores of locks pass."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_safecopy.errors import LockBusyError, LockLostError
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Holder, Lease, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.lock.store import Store
from tests.lock.conftest import Ground, Hold
from tests.support.until import until

pytestmark = pytest.mark.sweep(2)

NAME = "분석.고객"
PROMISE = Promise(stale_after=600, crash_grace=None)
GRACE = Promise(stale_after=600, crash_grace=60)
ELSEWHERE = ProcessIdentity("다른-호스트", 4321, "다른 부팅", 1, 99)
STEP = 100
"""Seconds; what really passes meanwhile is far less than half of it."""


def run(key: str = "배치|야간|run1", member: str = "복사", try_number: int = 1, **more: Any) -> Contender:
    """One attempt of a run's task, on a host nobody knows anything of."""
    owner = {"dag": key.partition("|")[0], "run": key.rpartition("|")[2]}
    return Contender(key, owner, member, try_number, **{"process": ELSEWHERE} | more)


def taken(
    store: Store, contender: Contender, promise: Promise = PROMISE, *, name: str = NAME, dead: Collection[str] = ()
) -> Lease:
    answer = store.acquire(name, contender, promise, dead=dead)
    assert isinstance(answer, Lease), f"busy: {answer}"
    return answer


def refused(store: Store, contender: Contender, *, name: str = NAME, dead: Collection[str] = ()) -> Holder:
    answer = store.acquire(name, contender, PROMISE, dead=dead)
    assert isinstance(answer, Holder), f"not busy: {answer}"
    return answer


def displaced(lease: Lease) -> DisplacedHolder:
    assert lease.displaced is not None
    return lease.displaced


# The seeds of this idea


def test_second_instance_refused(store: Store, rival: Store) -> None:
    lease = taken(store, run("배치|야간|run1"))
    assert (lease.name, lease.token, lease.kind, lease.displaced) == (NAME, 1, "grant", None)
    assert refused(rival, run("배치|야간|run2")).owner_key == "배치|야간|run1"
    assert store.heartbeat(lease, phase=1, count=1) > 0


def test_released_then_granted(store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    assert store.release(lease)
    again = taken(rival, run("r2"))
    assert (again.kind, again.token) == ("grant", 2)
    assert again.lease_id != lease.lease_id


def test_killed_holders_lock_recovered_at_once(ground: Ground, rival: Store, holding: Hold) -> None:
    process = holding(ground, NAME)
    with pytest.raises(LockBusyError):
        LivingLock(NAME, rival, contender=run("r2")).acquire()
    process.send_signal(signal.SIGKILL)
    process.wait(100)
    lock = LivingLock(NAME, rival, contender=run("r2")).acquire()
    (lease,) = lock.leases
    assert (lease.kind, lease.token) == ("takeover-dead", 2)
    assert [place.pid for place in displaced(lease).processes] == [process.pid]


def test_paused_holders_lock_is_not_recovered_at_once(ground: Ground, rival: Store, holding: Hold) -> None:
    process = holding(ground, NAME)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LockBusyError):
        LivingLock(NAME, rival, contender=run("r2")).acquire()


def test_healthy_long_run_never_taken(ground: Ground, rival: Store) -> None:
    healthy = run("r1")
    store = ground.store(healthy.attempt)
    lease = taken(store, healthy, GRACE)
    for count in range(1, 50):
        ground.move(PROMISE.stale_after - STEP)
        refused(rival, run("r2"))
        assert store.heartbeat(lease, phase=1, count=count) == pytest.approx(PROMISE.stale_after, abs=STEP / 2)
    refused(rival, run("r2"))


def test_stuck_run_taken_after_stale_after(ground: Ground, store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    store.heartbeat(lease, phase=1, count=7)
    for _ in range(5):
        ground.move(STEP)
        store.heartbeat(lease, phase=1, count=7)
        assert not refused(rival, run("r2")).is_stale
    ground.move(STEP + 1)
    store.heartbeat(lease, phase=1, count=7)
    holder = store.read_holder(NAME)
    assert holder is not None
    assert (holder.is_stale, holder.seconds_to_takeover) == (True, 0)
    took = taken(rival, run("r2"))
    assert (took.kind, took.token) == ("takeover-stale", 2)
    with pytest.raises(LockLostError) as caught:
        store.heartbeat(lease, phase=1, count=8)
    assert (caught.value.lock, caught.value.token, caught.value.retryable) == (NAME, 1, True)


def test_crash_without_heartbeat_taken_after_the_grace(ground: Ground, rival: Store) -> None:
    crashed = run("r1")
    store = ground.store(crashed.attempt)
    taken(store, crashed, GRACE)
    ground.vanish(store, crashed.attempt)
    refused(rival, run("r2"))
    ground.move(STEP / 4)
    refused(rival, run("r2"))
    ground.move(STEP)
    took = taken(rival, run("r2"))
    assert (took.kind, took.token) == ("takeover-crash", 2)
    assert displaced(took).attempts == (str(crashed.attempt),)


def test_release_after_takeover_harmless(ground: Ground, store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    ground.move(PROMISE.stale_after + 1)
    took = taken(rival, run("r2"))
    assert not store.release(lease)
    assert rival.heartbeat(took, phase=1, count=1) > 0
    holder = rival.read_holder(NAME)
    assert holder is not None
    assert (holder.owner_key, holder.token) == ("r2", 2)


def test_expired_rows_cleaned(ground: Ground, store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    ground.move(PROMISE.stale_after + STEP)
    assert rival.reap(NAME, overdue=2 * STEP) is None
    reaped = rival.reap(NAME, overdue=STEP / 2, reason="아무도 없음")
    assert reaped is not None
    assert (reaped.owner_key, reaped.token, reaped.attempts) == ("r1", 1, (str(lease.attempt),))
    assert rival.read_holders() == ()
    assert rival.read_holder(NAME) is None
    assert rival.reap(NAME) is None
    assert rival.forget(keep=10 * STEP) == 0
    ground.move(20 * STEP)
    assert rival.forget(keep=10 * STEP) == 2
    assert rival.read_history() == ()
    assert rival.forget(keep=10 * STEP) == 0
    assert taken(rival, run("r2")).token == 3


# Who gets it


def test_a_heartbeat_within_the_grace_is_no_crash(ground: Ground, rival: Store) -> None:
    contender = run("r1")
    store, other = ground.store(contender.attempt), ground.store()
    lease = taken(store, contender, GRACE)
    ground.vanish(store, lease.attempt)
    ground.move(STEP)
    other.heartbeat(lease, phase=0, count=0)
    other.close()
    refused(rival, run("r2"))
    assert store.heartbeat(lease, phase=1, count=1) > 0
    ground.move(STEP)
    refused(rival, run("r2"))  # its life is seen again


def test_who_lives_and_beats_no_heart_is_taken_only_when_stale(ground: Ground, rival: Store) -> None:
    contender = run("r1")
    store = ground.store(contender.attempt)
    taken(store, contender, GRACE)
    ground.move(PROMISE.stale_after - STEP)
    refused(rival, run("r2"))
    ground.move(STEP + 1)
    assert taken(rival, run("r2")).kind == "takeover-stale"


def test_without_a_grace_nobody_is_judged_crashed(ground: Ground, rival: Store) -> None:
    contender = run("r1")
    store = ground.store(contender.attempt)
    taken(store, contender, PROMISE)
    ground.vanish(store, contender.attempt)
    ground.move(PROMISE.stale_after - STEP)
    refused(rival, run("r2"))


def test_detached_members_are_never_judged_crashed(ground: Ground, rival: Store) -> None:
    contender, other = run("r1", "준비", process=None, is_detached=True), run("r1", "복사")
    store, others = ground.store(contender.attempt), ground.store(other.attempt)
    taken(store, contender, GRACE)
    taken(others, other, GRACE)
    ground.vanish(store, contender.attempt)
    ground.vanish(others, other.attempt)
    ground.move(PROMISE.stale_after - STEP)
    refused(rival, run("r2"))
    ground.move(STEP + 1)
    assert taken(rival, run("r2")).kind == "takeover-stale"


def test_attempts_proven_dead_are_taken_over_at_once_when_they_are_all(store: Store, rival: Store) -> None:
    one, two = run("r1", "하나"), run("r1", "둘", process=replace(ELSEWHERE, pid=5))
    taken(store, one)
    taken(store, two)
    refused(rival, run("r2"), dead={str(one.attempt)})
    refused(rival, run("r2"), dead={str(uuid4())})
    took = taken(rival, run("r2"), dead={str(one.attempt), str(two.attempt)})
    assert (took.kind, took.token) == ("takeover-dead", 2)
    former = displaced(took)
    assert (former.owner_key, former.owner, former.token) == ("r1", {"dag": "r1", "run": "r1"}, 1)
    assert set(former.attempts) == {str(one.attempt), str(two.attempt)}
    assert set(former.processes) == {ELSEWHERE, replace(ELSEWHERE, pid=5)}


def test_tasks_of_one_run_join(store: Store, rival: Store) -> None:
    first, second = taken(store, run(member="하나")), taken(rival, run(member="둘"))
    assert (second.kind, second.token, second.lease_id) == ("join", first.token, first.lease_id)
    assert second.displaced is None
    assert store.heartbeat(first, phase=1, count=1) > 0
    assert rival.heartbeat(second, phase=1, count=1) > 0
    assert {seen.member for seen in refused(rival, run("r2")).members} == {"하나", "둘"}


def test_a_higher_try_supersedes_and_the_older_one_has_lost(store: Store, rival: Store) -> None:
    first = taken(store, run(try_number=1))
    second = taken(rival, run(try_number=2, process=None))
    assert (second.kind, second.token, second.lease_id) == ("supersede", first.token, first.lease_id)
    former = displaced(second)
    assert (former.attempts, former.processes) == ((str(first.attempt),), (ELSEWHERE,))
    with pytest.raises(LockLostError):
        store.heartbeat(first, phase=1, count=1)
    assert not store.release(first)
    assert rival.heartbeat(second, phase=1, count=1) > 0


@pytest.mark.parametrize("try_number", [2, 1])
def test_duplicate_attempt_refused(store: Store, rival: Store, try_number: int) -> None:
    lease = taken(store, run(try_number=2))
    assert refused(rival, run(try_number=try_number)).owner_key == lease.contender.owner_key
    assert store.heartbeat(lease, phase=1, count=1) > 0


def test_duplicate_attempt_of_one_that_is_stale_or_dead_supersedes(ground: Ground, store: Store, rival: Store) -> None:
    first = taken(store, run(try_number=2))
    second = taken(rival, run(try_number=2), dead={str(first.attempt)})
    assert (second.kind, second.token) == ("supersede", 1)
    ground.move(PROMISE.stale_after + 1)
    third = taken(store, run(try_number=1))
    assert (third.kind, third.token) == ("supersede", 1)
    assert displaced(third).attempts == (str(second.attempt),)


def test_one_of_many_at_once_gets_it(ground: Ground) -> None:
    stores, start = [ground.store() for _ in range(6)], threading.Barrier(6)

    def ask(store: Store) -> list[Lease | Holder]:
        start.wait(100)
        return [store.acquire(f"잠금 {each}", run(str(uuid4())), PROMISE) for each in range(5)]

    with ThreadPoolExecutor(6) as executor:
        answers = [answer for answers in executor.map(ask, stores) for answer in answers]
    granted = sorted((answer.name, answer.token) for answer in answers if isinstance(answer, Lease))
    assert granted == [(f"잠금 {each}", 1) for each in range(5)]


def test_threads_take_turns_at_one_store(store: Store) -> None:
    lease, start = taken(store, run()), threading.Barrier(4)

    def beat(first: int) -> list[float]:
        start.wait(100)
        return [store.heartbeat(lease, phase=1, count=first + each) for each in range(10)]

    with ThreadPoolExecutor(4) as executor:
        left = [each for some in executor.map(beat, [0, 100, 200, 300]) for each in some]
    assert len(left) == 40
    assert min(left) > 0
    holder = store.read_holder(NAME)
    assert holder is not None
    assert holder.members[0].count == 309


# Tokens


def test_tokens_grow_by_one_per_change_of_owner_and_are_never_reset(ground: Ground, store: Store, rival: Store) -> None:
    first = taken(store, run("r1"))
    taken(store, run("r1", "둘"))
    taken(store, run("r1", try_number=2))
    assert store.force_release(NAME, reason="시험") is not None
    second = taken(rival, run("r2"))
    rival.release(second)
    third = taken(store, run("r3"))
    assert store.reap(NAME, dead={str(third.attempt)}) is not None
    fourth = taken(rival, run("r4"))
    ground.move(PROMISE.stale_after + 1)
    fifth = taken(store, run("r5"))
    ground.move(100 * 86400)
    store.forget(keep=0)
    assert [lease.token for lease in (first, second, third, fourth, fifth)] == [1, 3, 4, 6, 7]
    assert taken(rival, run("r6")).token == 8
    assert taken(rival, run("r6"), name="다른 잠금").token == 1


def test_a_lock_is_no_other_locks_business(store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    other = taken(rival, run("r2"), name="분석.주문")
    assert rival.release(other)
    assert store.heartbeat(lease, phase=1, count=1) > 0
    assert [holder.name for holder in rival.read_holders()] == [NAME]


# The promise


def test_heartbeat_extends_only_when_phase_and_count_grew(ground: Ground, store: Store) -> None:
    lease = taken(store, run())
    told: list[float] = []
    beats = [(0, 0), (0, 5), (0, 5), (0, 4), (1, 0), (0, 9), (1, 0), (2, 3), (2, 2), (1, 9), (2, 4)]
    for phase, count in beats:
        ground.move(STEP)
        told.append(store.heartbeat(lease, phase=phase, count=count))
    full = PROMISE.stale_after
    expected = [500, full, 500, 400, full, 500, 400, full, 500, 400, full]
    assert told == [pytest.approx(seconds, abs=STEP / 2) for seconds in expected]
    holder = store.read_holder(NAME)
    assert holder is not None
    assert [(seen.phase, seen.count) for seen in holder.members] == [(2, 4)]


def test_each_members_progress_is_its_own(ground: Ground, store: Store) -> None:
    one, two = taken(store, run(member="하나")), taken(store, run(member="둘"))
    store.heartbeat(one, phase=3, count=1000)
    ground.move(STEP)
    assert store.heartbeat(two, phase=0, count=1) == pytest.approx(600, abs=50)
    holder = store.read_holder(NAME)
    assert holder is not None
    assert [(seen.member, seen.phase, seen.count) for seen in holder.members] == [("둘", 0, 1), ("하나", 3, 1000)]
    since = holder.members[0].progressed_at - holder.members[1].progressed_at
    assert since.total_seconds() == pytest.approx(STEP, abs=STEP / 2)


def test_who_supersedes_begins_anew(ground: Ground, store: Store) -> None:
    first = taken(store, run(try_number=1))
    store.heartbeat(first, phase=5, count=5)
    second = taken(store, run(try_number=2))
    ground.move(STEP)
    assert store.heartbeat(second, phase=0, count=1) == pytest.approx(600, abs=50)


def test_the_holders_promise_counts_and_not_the_contenders(ground: Ground, store: Store, rival: Store) -> None:
    hasty, patient = Promise(stale_after=1, crash_grace=1), Promise(stale_after=1000, crash_grace=None)
    lease = taken(store, run("r1"), patient)
    assert lease.remaining == pytest.approx(1000, abs=50)
    ground.move(900)
    holder = rival.acquire(NAME, run("r2"), hasty)
    assert isinstance(holder, Holder)
    assert holder.stale_after == 1000
    assert holder.seconds_to_takeover == pytest.approx(100, abs=50)


def test_a_joining_member_does_not_shorten_the_promise(ground: Ground, store: Store) -> None:
    taken(store, run(member="하나"), Promise(1000, None))
    second = taken(store, run(member="둘"), Promise(100, None))
    assert second.remaining == pytest.approx(1000, abs=50)
    ground.move(STEP)
    assert store.heartbeat(second, phase=1, count=1) == pytest.approx(1000, abs=50)


# Letting go


def test_release_is_idempotent(store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    assert [store.release(lease) for _ in range(3)] == [True, False, False]
    took = taken(rival, run("r2"))
    assert not store.release(lease)
    assert rival.heartbeat(took, phase=1, count=1) > 0


def test_after_release_no_heartbeat_counts(store: Store) -> None:
    lease = taken(store, run())
    store.release(lease)
    with pytest.raises(LockLostError):
        store.heartbeat(lease, phase=1, count=1)


def test_partial_release_leaves_the_lock_with_the_others(ground: Ground, store: Store, rival: Store) -> None:
    one, two = taken(store, run("r1", "하나")), taken(store, run("r1", "둘"))
    ground.move(STEP)
    assert not store.release(one)
    holder = refused(rival, run("r2"))
    assert [seen.member for seen in holder.members] == ["둘"]
    assert holder.seconds_to_takeover == pytest.approx(600, abs=50)  # who leaves has done something
    assert store.release(two)
    assert taken(rival, run("r2")).kind == "grant"


def test_another_store_may_release(store: Store, rival: Store) -> None:
    lease = taken(store, run("r1", "준비", process=None, is_detached=True))
    assert rival.release(lease)
    assert rival.read_holders() == ()


def test_at_least_keeps_grants_apart(ground: Ground, store: Store, rival: Store) -> None:
    store.release(taken(store, run("r1")), at_least=3 * STEP)
    ground.move(STEP)
    holder = refused(rival, run("r2"))
    assert (holder.owner_key, holder.members, holder.is_stale) == (None, (), False)
    assert holder.seconds_to_takeover == pytest.approx(2 * STEP, abs=STEP / 2)
    assert rival.read_holder(NAME) is None
    assert rival.read_holders() == ()
    refused(store, run("r1"))
    ground.move(2 * STEP)
    assert taken(rival, run("r2")).token == 2


def test_a_revoked_attempt_has_lost_its_lock_and_its_siblings_have_not(store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    other = taken(store, run("r1", "둘"))
    assert [store.revoke(lease) for _ in range(2)] == [True, False]
    assert {seen.attempt for seen in refused(rival, run("r2")).members} == {str(lease.attempt), str(other.attempt)}
    with pytest.raises(LockLostError):
        store.heartbeat(lease, phase=9, count=9)
    assert store.heartbeat(other, phase=1, count=1) > 0
    assert not store.release(lease)
    assert store.release(other)
    assert not store.revoke(other)
    assert [event.kind for event in store.read_history(NAME)][:3] == ["release", "leave", "revoke"]


def test_force_release_with_a_reason(store: Store, rival: Store) -> None:
    lease = taken(store, run("배치|야간|run1"))
    taken(store, run("배치|야간|run1", "둘", process=None))
    forced = rival.force_release(NAME, reason="손으로 멈춤")
    assert forced is not None
    assert (forced.owner_key, forced.owner, forced.token) == (
        "배치|야간|run1",
        {"dag": "배치", "run": "run1"},
        lease.token,
    )
    assert str(lease.attempt) in forced.attempts
    assert (len(forced.attempts), forced.processes) == (2, (ELSEWHERE,))
    with pytest.raises(LockLostError):
        store.heartbeat(lease, phase=1, count=1)
    assert rival.force_release(NAME, reason="다시") is None
    event = rival.read_history(NAME, limit=1)[0]
    assert (event.kind, event.token, event.owner_key, event.prev_owner_key) == (
        "force-release",
        2,
        None,
        "배치|야간|run1",
    )
    assert event.detail == {"reason": "손으로 멈춤", "from": {"dag": "배치", "run": "run1"}}


def test_force_release_and_reap_of_what_never_was_do_nothing(store: Store) -> None:
    assert store.force_release("없음", reason="시험") is None
    assert store.reap("없음") is None
    assert store.read_history() == ()


def test_reap_spares_the_living(ground: Ground, store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    ground.move(PROMISE.stale_after - STEP)
    assert rival.reap(NAME) is None
    assert rival.reap(NAME, dead={str(uuid4())}) is None
    assert store.heartbeat(lease, phase=1, count=1) > 0
    reaped = rival.reap(NAME, dead={str(lease.attempt)}, reason="실행이 끝났음")
    assert reaped is not None
    assert reaped.processes == (ELSEWHERE,)
    event = rival.read_history(NAME, limit=1)[0]
    assert (event.kind, event.prev_owner_key, event.detail["reason"]) == ("reap", "r1", "실행이 끝났음")


def test_no_session_is_left_of_whom_nobody_knows(store: Store) -> None:
    assert store.end_sessions(DisplacedHolder("r1", {}, 1, (str(uuid4()),), (ELSEWHERE,))) == 0


# What is told


def test_a_busy_answer_says_who_since_when_and_until_when(ground: Ground, store: Store, rival: Store) -> None:
    contender = run("배치|야간|run1", "복사[3]", 2)
    lease = taken(store, contender)
    ground.move(STEP)
    store.heartbeat(lease, phase=1, count=42)
    ground.move(STEP)
    holder = refused(rival, run("r2"))
    assert (holder.name, holder.token, holder.owner_key) == (NAME, 1, "배치|야간|run1")
    assert holder.owner == {"dag": "배치", "run": "run1"}
    (seen,) = holder.members
    assert (seen.member, seen.attempt, seen.try_number) == ("복사[3]", str(contender.attempt), 2)
    assert (seen.process, seen.phase, seen.count) == (ELSEWHERE, 1, 42)
    assert (holder.asked_at - holder.granted_at).total_seconds() == pytest.approx(2 * STEP, abs=STEP / 2)
    for at in (holder.progressed_at, holder.alive_at, seen.progressed_at):
        assert (holder.asked_at - at).total_seconds() == pytest.approx(STEP, abs=STEP / 2)
    assert holder.seconds_to_takeover == pytest.approx(500, abs=50)
    assert holder.asked_at.utcoffset() is not None
    assert (holder.stale_after, holder.is_stale, holder.refused_count) == (600, False, 0)


def test_the_owner_for_people_round_trips(store: Store, rival: Store) -> None:
    owner = {"dag": "야간 집계", "run": "scheduled__2026-01-01T00:00:00+00:00", "따옴표": "\"'\\\n%s", "빈": ""}
    taken(store, replace(run(), owner=owner))
    assert refused(rival, run("r2")).owner == owner
    assert rival.read_history(NAME)[0].owner == owner
    forced = rival.force_release(NAME, reason="%s '\"")
    assert forced is not None
    assert forced.owner == owner


@pytest.mark.parametrize(
    "name",
    [
        "분석.고객",
        "가" * 1000,
        "../../etc/passwd",
        "/",
        ".",
        "..",
        "a/b\\c",
        "it's; DROP TABLE safecopy.lock --",
        "한글\n이름\t",
        "%s %(x)s",
        "*?[a-z]",
        "😀 \u202e",
        "-rf",
    ],
)
def test_any_text_is_a_name(store: Store, rival: Store, name: str) -> None:
    lease = taken(store, run("r1"), name=name)
    assert lease.name == name
    assert refused(rival, run("r2"), name=name).name == name
    assert [holder.name for holder in rival.read_holders()] == [name]
    assert store.heartbeat(lease, phase=1, count=1) > 0
    assert store.release(lease)
    assert [event.name for event in rival.read_history(name)] == [name, name]


def test_names_that_look_alike_are_not_the_same(store: Store) -> None:
    names = ["a/b", "a_b", "a.b", "A/B", "a b", " a_b", "각", "\u1100\u1161\u11a8"]
    assert [taken(store, run(str(index)), name=name).token for index, name in enumerate(names)] == [1] * len(names)
    assert sorted(holder.name for holder in store.read_holders()) == sorted(names)


def test_holders_are_all_that_is_held_and_no_more(ground: Ground, store: Store, rival: Store) -> None:
    assert rival.read_holders() == ()
    leases = {name: taken(store, run(f"r {name}"), name=name) for name in ("가", "나", "다")}
    store.release(leases["나"])
    ground.move(PROMISE.stale_after + 1)
    store.heartbeat(leases["다"], phase=1, count=1)
    held = {holder.name: holder for holder in rival.read_holders()}
    assert set(held) == {"가", "다"}
    assert (held["가"].is_stale, held["다"].is_stale) == (True, False)
    assert rival.read_holder("나") is None
    assert rival.read_holder("라") is None


def test_refusals_are_counted_since_the_grant(store: Store, rival: Store) -> None:
    rival.record_refusal(NAME, run("r0"))  # of what nobody has ever held, nothing is kept
    first = taken(store, run("r1"))
    for _ in range(3):
        rival.record_refusal(NAME, run("r2"))
    holder = refused(rival, run("r2"))
    assert holder.refused_count == 3
    event = rival.read_history(NAME)[0]
    assert (event.kind, event.token, event.owner_key) == ("refused", 1, "r2")
    store.release(first)
    taken(store, run("r3"))
    assert refused(rival, run("r2")).refused_count == 0


def test_history_tells_what_happened_the_newest_first(ground: Ground, store: Store, rival: Store) -> None:
    one = taken(store, run("r1", "하나"))
    two = taken(store, run("r1", "둘"))
    again = taken(store, run("r1", "둘", 2))
    rival.record_refusal(NAME, run("r2"))
    store.release(one)
    ground.move(PROMISE.stale_after + 1)
    took = taken(rival, run("r2"))
    rival.release(took)
    events = rival.read_history(NAME)
    assert [(event.kind, event.token, event.owner_key, event.member) for event in reversed(events)] == [
        ("grant", 1, "r1", "하나"),
        ("join", 1, "r1", "둘"),
        ("supersede", 1, "r1", "둘"),
        ("refused", 1, "r2", "복사"),
        ("leave", 1, "r1", "하나"),
        ("takeover-stale", 2, "r2", "복사"),
        ("release", 2, "r2", "복사"),
    ]
    attempts = [str(lease.attempt) for lease in (one, two, again)]
    assert [event.attempt for event in reversed(events)][:3] == attempts
    takeover = events[1]
    assert takeover.prev_owner_key == "r1"
    assert takeover.detail == {"from": {"dag": "r1", "run": "r1"}}
    assert [event.prev_owner_key for event in events if event.kind != "takeover-stale"] == [None] * 6
    assert all(event.at.utcoffset() is not None for event in events)
    assert [event.kind for event in rival.read_history(NAME, limit=2)] == ["release", "takeover-stale"]


def test_the_history_of_all_locks_is_one(store: Store) -> None:
    for name in ("가", "나", "가"):
        store.release(taken(store, run("r1"), name=name))
    told = [(event.name, event.kind) for event in store.read_history()]
    assert told == [(name, kind) for name in ("가", "나", "가") for kind in ("release", "grant")]
    assert [event.name for event in store.read_history("나")] == ["나", "나"]
    assert store.read_history("다") == ()
    assert len(store.read_history(limit=3)) == 3


def test_of_who_only_passes_the_history_keeps_takeovers_alone(ground: Ground, store: Store, rival: Store) -> None:
    store.release(taken(store, run("r1", is_passing=True)))
    taken(store, run("r2", is_passing=True))
    assert rival.read_history(NAME) == ()
    ground.move(PROMISE.stale_after + 1)
    rival.release(taken(rival, run("r3", is_passing=True)))
    assert [event.kind for event in rival.read_history(NAME)] == ["takeover-stale"]


def test_forget_leaves_what_is_recent_and_whoever_holds(ground: Ground, store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    store.release(taken(store, run("r2"), name="다른 잠금"))
    assert rival.forget(keep=STEP) == 0
    assert len(rival.read_history()) == 3
    ground.move(2 * STEP)
    assert rival.forget(keep=STEP) == 3
    assert refused(rival, run("r2")).members[0].attempt == str(lease.attempt)
    assert store.heartbeat(lease, phase=1, count=1) > 0


def test_close_leaves_the_locks_as_they_are(ground: Ground, store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    store.close()
    store.close()
    assert store.backends == ()
    refused(rival, run("r2"))
    assert store.heartbeat(lease, phase=1, count=1) > 0
    assert store.release(lease)


def test_what_a_process_released_is_free(ground: Ground, rival: Store, holding: Hold) -> None:
    process = holding(ground, NAME)
    holder = rival.read_holder(NAME)
    assert holder is not None
    assert [seen.process.pid for seen in holder.members if seen.process] == [process.pid]
    out, _ = process.communicate(b"\n", timeout=100)
    assert out == b"released\n"
    until(lambda: rival.read_holder(NAME) is None)
    assert taken(rival, run("r2")).kind == "grant"


def test_times_of_the_store_are_not_those_of_its_users(ground: Ground, store: Store, rival: Store) -> None:
    lease = taken(store, run("r1"))
    ground.move(STEP)
    before = refused(rival, run("r2"))
    ground.move(STEP)
    after = refused(rival, run("r2"))
    assert abs(after.granted_at - before.granted_at) < timedelta(seconds=1)
    assert after.asked_at - before.asked_at > timedelta(seconds=STEP / 2)
    assert lease.remaining == pytest.approx(600, abs=50)

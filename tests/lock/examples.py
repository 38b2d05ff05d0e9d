"""What the machine would seldom happen upon: one example each, of the real SQL by a movable clock."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from airflow_provider_safecopy.errors import LockLostError
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import build_contender_parameters
from tests.lock.world import World


def heartbeats_without_progress_do_not_extend(world: World) -> None:
    """Alive is not enough: who beats a hundred times over the same work is overdue nevertheless."""
    lease = took(world, "가동", promise=Promise(250, 150))
    assert world.store.heartbeat(lease, phase=1, count=10) > 200
    for left in (190, 130, 70, 10):
        world.clock.seconds += 60
        assert world.store.heartbeat(lease, phase=1, count=10) <= left
    world.clock.seconds += 60
    assert took(world, "후임", lease.name).kind == "takeover-stale"


def less_progress_than_before_is_none(world: World) -> None:
    lease = took(world, "가동", promise=Promise(250, 150))
    world.store.heartbeat(lease, phase=2, count=5)
    world.clock.seconds += 100
    for phase, count in ((1, 1000), (2, 4), (2, 5)):
        assert world.store.heartbeat(lease, phase=phase, count=count) < 200
    assert world.store.heartbeat(lease, phase=3, count=0) > 200


def the_fence_holds_both_rows(world: World) -> None:
    """Either would do for most of what may come: each has to hold by itself."""
    lease = took(world, "가동")
    session = world.session(lease.attempt)
    assert world.fenced(session, lease)
    update = "SET LOCAL lock_timeout = '20ms'; UPDATE safecopy.{} SET {} WHERE name = '{}'"
    for row, columns in (
        ("lock", "token = token + 1"),
        ("lock", "lease_id = NULL"),
        ("member", "member_id = gen_random_uuid()"),
    ):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            world.observer.execute(update.format(row, columns, lease.name).encode())
    session.execute("COMMIT")
    world.hide(session)


def a_token_issued_twice_fences_its_first_holder_out(world: World) -> None:
    """As after a restore of an older backup: the token alone would let the first one publish."""
    first = took(world, "가동")
    world.observer.execute("DELETE FROM safecopy.member WHERE name = %s", [first.name])
    world.observer.execute("DELETE FROM safecopy.lock WHERE name = %s", [first.name])
    again = took(world, "가동", first.name, attempt=first)
    assert (again.token, again.attempt) == (first.token, first.attempt)
    session = world.session(first.attempt)
    assert not world.fenced(session, first)
    assert world.fenced(session, again)
    world.hide(session)
    with pytest.raises(LockLostError):
        world.store.heartbeat(first, phase=9, count=9)
    assert not world.store.release(first)
    world.store.heartbeat(again, phase=1, count=1)


def who_has_just_revived_is_spared(world: World) -> None:
    """Between the look and the kill, the holder made progress."""
    lease = took(world, "가동", promise=Promise(250, 150))
    session = world.session(lease.attempt)
    rival = build_contender_parameters(Contender("후임", process=None)) | {
        "name": lease.name,
        "dead": [],
        "any_holder": False,
    }
    world.clock.seconds += 300
    world.store.heartbeat(lease, phase=1, count=1)
    assert world.store._ask("terminate", rival) == []
    world.clock.seconds += 300
    assert [row["ended"] for row in world.store._ask("terminate", rival)] == [True]
    session.close()


def who_was_revoked_is_told_at_its_next_heartbeat(world: World) -> None:
    """Of one run's members it alone: what it says does not extend the lease either."""
    lease = took(world, "가동", member="추출")
    other = took(world, "가동", lease.name, member="적재")
    assert world.store.revoke(lease)
    assert not world.store.revoke(lease)
    world.clock.seconds += 100
    with pytest.raises(LockLostError):
        world.store.heartbeat(lease, phase=9, count=9)
    assert world.store.heartbeat(other, phase=0, count=0) < 200
    assert not world.store.release(lease)
    assert world.store.release(other)


def after_a_release_the_lock_rests_as_long_as_was_asked(world: World) -> None:
    lease = took(world, "가동")
    assert world.store.release(lease, at_least=150)
    world.clock.seconds += 100
    answer = world.store.acquire(lease.name, Contender("후임", process=None), Promise())
    assert isinstance(answer, Holder)
    assert answer.owner_key is None
    assert 0 < answer.seconds_to_takeover < 60
    world.clock.seconds += 100
    assert took(world, "후임", lease.name).kind == "grant"


def members_sessions_speak_for_all_of_them(world: World) -> None:
    """A holder has crashed when all of its members have: one session is enough to live."""
    promise = Promise(850, 150)
    extract = took(world, "가동", promise=promise, member="추출")
    load = took(world, "가동", extract.name, promise=promise, member="적재")
    session = world.session(load.attempt)
    world.clock.seconds += 200
    assert isinstance(world.store.acquire(extract.name, Contender("후임", process=None), promise), Holder)
    world.hide(session)
    assert took(world, "후임", extract.name).kind == "takeover-crash"


def a_detached_member_needs_no_session(world: World) -> None:
    promise = Promise(850, 150)
    lease = took(world, "가동", promise=promise, detached=True)
    world.clock.seconds += 200
    assert isinstance(world.store.acquire(lease.name, Contender("후임", process=None), promise), Holder)
    world.clock.seconds += 700
    assert took(world, "후임", lease.name).kind == "takeover-stale"


def took(
    world: World,
    owner: str,
    name: str | None = None,
    *,
    promise: Promise | None = None,
    member: str = "적재",
    attempt: Lease | None = None,
    detached: bool = False,
) -> Lease:
    """A lease of a lock, or of a new one."""
    given = attempt.attempt if attempt else uuid4()
    contender = Contender(owner, {"owner": owner}, member, attempt=given, process=None, is_detached=detached)
    lease = world.store.acquire(name or world.new_name(), contender, promise or Promise(250, 150))
    assert isinstance(lease, Lease), lease
    return lease


EXAMPLES = (
    heartbeats_without_progress_do_not_extend,
    less_progress_than_before_is_none,
    the_fence_holds_both_rows,
    a_token_issued_twice_fences_its_first_holder_out,
    who_has_just_revived_is_spared,
    who_was_revoked_is_told_at_its_next_heartbeat,
    after_a_release_the_lock_rests_as_long_as_was_asked,
    members_sessions_speak_for_all_of_them,
    a_detached_member_needs_no_session,
)

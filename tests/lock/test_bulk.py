"""Many locks in one message: by the same rules as one at a time, and with the same traces."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pytest

from airflow_provider_safecopy.errors import FencedOutError, LockBusyError, LockLostError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.bulk import BulkStore, TableLocks
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from tests.support.database import Database

NAMES = [f'영업."표 {number}"' for number in range(20)]


@pytest.fixture
def where(target: Database) -> Database:
    with target.connect() as session:
        schema.init(session)
    return target


@pytest.fixture
def locks(where: Database) -> Iterator[TableLocks]:
    """Those of a run that has a lock of its own, held."""
    made = table_locks(where, "야간")
    made.acquire()
    yield made
    made.release()


def table_locks(where: Database, own: str | None = None, contender: Contender | None = None) -> TableLocks:
    contender = contender or Contender.alone("시험")
    store = BulkStore(where.endpoint, attempt=contender.attempt)
    return TableLocks(own, store, contender=contender, terms=Promise(), liveness_check=None)


def leases(found: Mapping[str, object]) -> list[Lease]:
    return [answer for answer in found.values() if isinstance(answer, Lease)]


def held(where: Database) -> list[str]:
    return [name for (name,) in where.rows("SELECT name FROM safecopy.lock WHERE lease_id IS NOT NULL ORDER BY name")]


def test_each_has_a_lease_and_a_token_of_its_own(where: Database, locks: TableLocks) -> None:
    taken = leases(locks.acquire_tables(NAMES))
    assert sorted(lease.name for lease in taken) == sorted(NAMES)
    assert {lease.token for lease in taken} == {1}
    assert len({lease.lease_id for lease in taken}) == len(NAMES)
    assert held(where) == sorted([*NAMES, "야간"])
    assert where.value("SELECT count(*) FROM safecopy.member") == len(NAMES) + 1
    locks.release_tables(taken)
    assert held(where) == ["야간"]
    again = leases(locks.acquire_tables(NAMES[:3]))
    assert {lease.token for lease in again} == {2}
    events = where.rows(
        "SELECT kind, count(*) FROM safecopy.lock_event WHERE name <> '야간' GROUP BY kind ORDER BY kind"
    )
    assert events == [("grant", len(NAMES) + 3), ("release", len(NAMES))]


def test_it_is_one_transaction_and_leaves_nothing_in_the_session(where: Database, locks: TableLocks) -> None:
    taken = leases(locks.acquire_tables(NAMES))
    assert where.value("SELECT count(DISTINCT xmin::text) FROM safecopy.lock WHERE name <> '야간'") == 1
    assert where.value("SELECT count(*) FROM pg_prepared_statements") == 0
    locks.release_tables(taken)
    assert leases(locks.acquire_tables(NAMES))  # a plan left behind would be in the way


def test_of_a_busy_one_is_told_who_has_it_and_the_others_are_had(where: Database, locks: TableLocks) -> None:
    with LivingLock(NAMES[3], where.endpoint, contender=Contender.alone("남")):
        found = locks.acquire_tables(NAMES)
        busy = found[NAMES[3]]
        assert isinstance(busy, LockBusyError)
        assert busy.holder["owner"]["owner"] == "남"
        assert len(leases(found)) == len(NAMES) - 1
        assert where.value("SELECT count(*) FROM safecopy.lock_event WHERE kind = 'refused'") == 1
        with pytest.raises(LockBusyError):
            locks.require_free(NAMES)
        locks.require_free(NAMES[:3])


def test_where_a_publisher_holds_a_row_the_others_are_had_one_by_one(where: Database, locks: TableLocks) -> None:
    lock = LivingLock(NAMES[0], where.endpoint, contender=Contender.alone("남"))
    with lock as other, where.connect() as session, session.transaction():
        other.fence(session)
        found = locks.acquire_tables(NAMES[:4])
        assert isinstance(found[NAMES[0]], LockBusyError)
        assert len(leases(found)) == 3


def test_a_holder_that_is_overdue_is_displaced(where: Database, locks: TableLocks) -> None:
    other = table_locks(where)
    other.acquire_tables(NAMES[:2])
    where.execute("UPDATE safecopy.lock SET due_at = now() - interval '1 s' WHERE name = %s", [NAMES[1]])
    found = locks.acquire_tables(NAMES)
    taken = found[NAMES[1]]
    assert isinstance(taken, Lease)
    assert (taken.kind, taken.token) == ("takeover-stale", 2)
    assert isinstance(found[NAMES[0]], LockBusyError)
    other.send_heartbeat(phase=1, count=1)
    assert not other.store_answers  # its session was ended
    with pytest.raises(LockLostError):
        other.send_heartbeat(phase=1, count=1)
    other.release()


def test_a_beat_is_for_all_and_extends_what_has_made_progress(where: Database, locks: TableLocks) -> None:
    locks.acquire_tables(NAMES)
    where.execute("UPDATE safecopy.lock SET due_at = now() + interval '1 s'")
    locks.send_heartbeat(phase=1, count=1)
    assert where.value("SELECT min(due_at) > now() + interval '5 min' FROM safecopy.lock")
    where.execute("UPDATE safecopy.lock SET due_at = now() + interval '1 s'")
    locks.send_heartbeat(phase=1, count=1)  # nothing new
    assert where.value("SELECT max(due_at) < now() + interval '5 min' FROM safecopy.lock")
    assert locks.seconds_left < 1


def test_a_beat_finds_out_that_one_of_them_is_lost(where: Database, locks: TableLocks) -> None:
    locks.acquire_tables(NAMES)
    where.execute(
        "UPDATE safecopy.lock SET token = token + 1, lease_id = gen_random_uuid() WHERE name = %s", [NAMES[7]]
    )
    with pytest.raises(LockLostError, match="표 7"):
        locks.send_heartbeat(phase=1, count=1)
    with pytest.raises(LockLostError):
        locks.check()


@pytest.mark.parametrize("lost", ["야간", NAMES[0]])
def test_a_fence_is_of_the_run_and_of_the_table(where: Database, locks: TableLocks, lost: str) -> None:
    found = locks.acquire_tables(NAMES[:2])
    one, other = (found[name] for name in NAMES[:2])
    assert isinstance(one, Lease)
    assert isinstance(other, Lease)
    where.execute("UPDATE safecopy.lock SET token = token + 1, lease_id = gen_random_uuid() WHERE name = %s", [lost])
    with where.connect() as session:
        ask = lambda query, parameters: session.execute(query, parameters).fetchall()  # noqa: E731 -- a question
        with pytest.raises(FencedOutError, match=lost.replace(".", r"\.")):
            locks.build_fence(one, ask)(None)
        if lost != "야간":
            locks.build_fence(other, ask)(None)


def test_without_any_lock_there_is_no_hurry(where: Database) -> None:
    locks = table_locks(where)
    locks.acquire()
    assert locks.seconds_left == float("inf")
    locks.send_heartbeat(phase=1, count=1)
    taken = leases(locks.acquire_tables(NAMES[:1]))
    assert 0 < locks.seconds_left < 600
    locks.release_tables(taken)
    assert locks.seconds_left == float("inf")
    locks.release()


def test_hundreds_take_no_longer_than_a_moment(where: Database) -> None:
    """Of time alone: that a plan is made once and not for each. One by one they take over a second on any machine."""
    locks, names = table_locks(where), [f"표_{number}" for number in range(300)]
    began = time.monotonic()
    taken = leases(locks.acquire_tables(names))
    locks.send_heartbeat(phase=1, count=1)
    locks.release_tables(taken)
    assert len(taken) == 300
    assert time.monotonic() - began < 30
    locks.release()

"""A lock whose holder could not enter, or not leave as it wanted: it is free at once, on every way out.

Else it is granted to a run that does not know of it, and stays so until the grace of a crash is over.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from airflow_provider_safecopy.errors import LockBusyError, LockStoreError
from airflow_provider_safecopy.lock import liveness, schema
from airflow_provider_safecopy.lock.bulk import BulkStore, TableLocks
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.lock.store import Store
from tests.lock.conftest import Ground
from tests.support.database import Database
from tests.support.interruption import PACKAGE, Interruption, interrupt_at_each_call

NAMES = ("가", "나")
OVERDUE = Promise(stale_after=0.01)
ELSEWHERE = ProcessIdentity("elsewhere", 1, may_end=True)
# Not of the file that closes the guard of a lock: no program can do what it is kept from beginning.
LOCK = tuple(f"{PACKAGE}/lock/{each}" for each in ("living_lock", "bulk", "postgres", "model", "liveness", "process"))
FILES = tuple(f"{PACKAGE}/lock/{each}.py" for each in ("file_store", "file_state", "file_record"))
PSYCOPG = str(psycopg.__path__[0])

ERRORS: tuple[Callable[[], BaseException], ...] = (
    KeyboardInterrupt,
    Interruption,
    lambda: OSError(errno.ENOSYS, "no such system call"),
    lambda: LockStoreError("the store is out of order"),
)


@pytest.fixture(autouse=True)
def _nobody_is_known_to_be_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this very process knows of its own attempts is no help to any other."""
    monkeypatch.setattr(liveness, "_FINISHED", set())


def _held_by_an_overdue_one(ground: Ground, name: str) -> None:
    with closing(ground.store()) as store:
        contender = replace(Contender.alone("밤샘"), process=ELSEWHERE, member="main")
        assert isinstance(store.acquire(name, contender, OVERDUE), Lease)
    ground.move(1)


def _demand_free(store: Store, told: str) -> None:
    """Another process asks."""
    assert [str(holder) for holder in store.read_holders() if not holder.is_stale] == [], told


@pytest.mark.parametrize(
    ("error", "step"), [*zip(ERRORS, (5, 1, 3, 3), strict=True)], ids=["ctrl-c", "signal", "ENOSYS", "store"]
)
def test_whatever_interrupts_the_acquisition_none_of_the_locks_is_held(
    ground: Ground, error: Callable[[], BaseException], step: int
) -> None:
    """A takeover that fails or is interrupted while it clears away was granted, but never entered."""
    struck, rival = set(), ground.store()
    for interrupter in interrupt_at_each_call(error, LOCK + FILES, step=step):
        _held_by_an_overdue_one(ground, NAMES[1])
        attempt = uuid4()
        lock = LivingLock(NAMES, ground.store(attempt), contender=replace(Contender.alone("낮"), attempt=attempt))
        if interrupter.run(lock.acquire):
            assert lock.leases == ()
            _demand_free(rival, interrupter.struck)
        struck.add(interrupter.struck)
        lock.release()
    assert step > 1 or {"_end_displaced", "end_processes", "end_sessions"} <= struck


def test_a_signal_in_the_midst_of_an_answer_leaves_nothing_held(target: Database) -> None:
    """At any call of psycopg's: the statement is on its way, or done, and its answer is never read."""
    with target.connect() as session:
        schema.init(session)
    for interrupter in interrupt_at_each_call(Interruption, (PSYCOPG,), step=7):
        lock = LivingLock(NAMES[0], target.endpoint)
        lock.peek()  # connected
        if interrupter.run(lock.acquire):
            held = "SELECT count(*) FROM safecopy.lock WHERE lease_id IS NOT NULL"
            assert target.value(held) == 0, interrupter.struck
        lock.release()


def test_a_release_that_is_interrupted_is_made_all_the_same(ground: Ground) -> None:
    rival = ground.store()
    for interrupter in interrupt_at_each_call(Interruption, (f"{PACKAGE}/lock/postgres.py", *FILES)):
        attempt = uuid4()
        store = ground.store(attempt)
        lock = LivingLock(NAMES, store, contender=replace(Contender.alone("낮"), attempt=attempt)).acquire()
        interrupter.run(lock.release)
        _demand_free(rival, interrupter.struck)


def test_one_that_cannot_be_released_keeps_no_other(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ground.store()
    lock = LivingLock(NAMES, store).acquire()
    release = type(store).release

    def fail_once(self: Store, lease: Lease, *, at_least: float = 0) -> bool:
        monkeypatch.setattr(type(store), "release", release)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(store), "release", fail_once)
    with pytest.raises(KeyboardInterrupt):
        lock.release()
    _demand_free(ground.store(), "release")


@pytest.fixture
def tables(target: Database) -> Iterator[Callable[[], TableLocks]]:
    with target.connect() as session:
        schema.init(session)
    made: list[TableLocks] = []

    def make() -> TableLocks:
        contender = Contender.alone("한꺼번에")
        store = BulkStore(target.endpoint, attempt=contender.attempt)
        made.append(TableLocks(None, store, contender=contender, terms=Promise(), liveness_check=None))
        return made[-1]

    yield make
    for each in made:
        each.release()


@pytest.mark.slow
@pytest.mark.parametrize("error", [Interruption, *ERRORS[2:]], ids=["signal", "ENOSYS", "store"])
def test_whatever_interrupts_taking_many_none_of_them_is_held_unless_it_is_answered_for(
    target: Database, tables: Callable[[], TableLocks], error: Callable[[], BaseException]
) -> None:
    """A lost answer was reported as "held by its own run": the grant is released and requested again."""
    for interrupter in interrupt_at_each_call(error, LOCK, step=4):
        overdue = LivingLock(NAMES[1], target.endpoint, promise=OVERDUE).acquire()
        overdue.store.close()
        target.execute("UPDATE safecopy.lock SET due_at = now() - interval '1 s' WHERE name = %s", [NAMES[1]])
        locks, answers = tables(), list[object]()
        interrupter.run(lambda locks=locks, answers=answers: answers.extend(locks.acquire_tables(NAMES).values()))  # type: ignore[misc]
        held = "SELECT count(*) FROM safecopy.lock WHERE owner_key = %s"
        owner = locks.contender.owner_key
        assert target.value(held, [owner]) == len(locks.leases) == len(answers), interrupter.struck
        assert not any(isinstance(answer, LockBusyError) for answer in answers)
        locks.release()
        assert target.value(held, [owner]) == 0, interrupter.struck


def test_a_run_that_was_granted_unheard_does_not_end_its_own_sessions(target: Database) -> None:
    contender = Contender.alone("낮")
    name = f"safecopy:{contender.attempt}"
    with (
        target.endpoint.connect(application_name=name, connect_timeout=10) as session,
        closing(LivingLock(NAMES[0], target.endpoint, contender=contender).acquire().store),
    ):
        liveness.mark_finished(contender.attempt)
        again = LivingLock(NAMES[0], target.endpoint, contender=contender).acquire()
        assert again.leases[0].kind == "supersede"
        assert again.displaced_attempts == ()
        assert session.execute("SELECT 1").fetchone() == (1,)
        again.release()

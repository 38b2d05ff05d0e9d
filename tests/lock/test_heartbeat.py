"""The pulse: beats while the work moves, stops the run when the lock is lost, and is no thread while psql is forked."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import LockLostError
from airflow_provider_safecopy.lock.heartbeat import Heartbeat
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from tests.support.database import Database
from tests.support.until import until

NAME = "야간 적재"


@pytest.fixture
def lock(target: Database) -> Iterator[LivingLock]:
    """A held lock whose promise is a second: a beat every fifth of it."""
    held = LivingLock(NAME, target.endpoint, promise=Promise(stale_after=1, crash_grace=1)).acquire()
    yield held
    held.release()


def row(target: Database, column: str) -> Any:
    return target.value(f"SELECT {column} FROM safecopy.member WHERE name = %s", [NAME])


def test_progress_is_carried_to_the_store_and_extends_the_promise(lock: LivingLock, target: Database) -> None:
    due = target.value("SELECT due_at FROM safecopy.lock")
    with Heartbeat(lock, AbortSwitch()) as pulse:
        pulse.advance(1, 100)
        until(lambda: bool(row(target, "count") == 100))
        pulse.advance(2, 5)
        until(lambda: bool(row(target, "(phase, count) = (2, 5)")))
    assert target.value("SELECT due_at FROM safecopy.lock") > due


def test_what_goes_back_is_no_progress(lock: LivingLock, target: Database) -> None:
    with Heartbeat(lock, AbortSwitch()) as pulse:
        pulse.advance(2, 100)
        pulse.advance(2, 7)
        pulse.advance(1, 1000)
        until(lambda: bool(row(target, "phase") == 2))
        assert row(target, "count") >= 100


def test_without_progress_it_lives_but_stops_the_run_before_its_promise_ends(
    lock: LivingLock, target: Database
) -> None:
    abort, started = AbortSwitch(), time.monotonic()
    with Heartbeat(lock, abort) as pulse:
        until(lambda: abort.is_thrown)
        assert time.monotonic() - started < 30
        assert isinstance(lock.lost_error, LockLostError)
        assert pulse.lost_error is lock.lost_error
    assert "stopped itself" in str(abort.reason)
    alive, due, now = target.rows("SELECT alive_at > granted_at, due_at, granted_at FROM safecopy.lock")[0]
    assert alive, "it beat all the same"
    assert (due - now).total_seconds() < 1.1, "and was not given longer for that"


def test_each_step_counts(lock: LivingLock) -> None:
    abort = AbortSwitch()
    with Heartbeat(lock, abort) as pulse:
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            pulse.count_step()
            assert not abort.is_thrown
            time.sleep(0.05)


def test_a_server_at_work_counts_and_is_asked_only_when_nothing_else_moves(lock: LivingLock) -> None:
    asked: list[float] = []
    abort = AbortSwitch()

    def working() -> bool:
        asked.append(time.monotonic())
        return True

    with Heartbeat(lock, abort, is_working=working) as pulse:
        deadline, count = time.monotonic() + 1, 0
        while time.monotonic() < deadline:
            count += 1
            pulse.advance(1, count)
            time.sleep(0.005)
        while_moving = len(asked)
        until(lambda: len(asked) > while_moving + 8)
        assert not abort.is_thrown
    assert while_moving <= 1


def test_a_lock_taken_away_stops_the_run(lock: LivingLock, target: Database) -> None:
    abort = AbortSwitch()
    with Heartbeat(lock, abort) as pulse:
        rival = PostgresStore(target.endpoint)
        rival.force_release(NAME, reason="시험")
        rival.close()
        until(lambda: abort.is_thrown)
        assert pulse.lost_error is not None
        assert pulse.lost_error.lock == NAME
    assert "taken from this run" in str(abort.reason)


def test_a_store_that_is_away_for_a_moment_does_not_stop_the_run(lock: LivingLock, target: Database) -> None:
    abort, count = AbortSwitch(), 0
    with Heartbeat(lock, abort) as pulse:
        for _ in range(3):
            target.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, 'safecopy:')"
            )
            count += 10
            pulse.advance(1, count)
            until(lambda: bool(row(target, "count") == count))  # noqa: B023 -- called before the next round
        assert not abort.is_thrown


def test_a_store_that_stays_away_stops_the_run_in_time(lock: LivingLock, mocker: MockerFixture) -> None:
    """A network that swallows everything cannot be made here in a second: the connection to it can."""
    from airflow_provider_safecopy.errors import LockStoreError

    abort, started = AbortSwitch(), time.monotonic()
    mocker.patch.object(lock.store, "heartbeat", side_effect=LockStoreError("no answer"))
    with Heartbeat(lock, abort) as pulse:
        deadline = started + 60
        count = 0
        while not abort.is_thrown:
            assert time.monotonic() < deadline
            count += 1
            pulse.advance(1, count)
            time.sleep(0.01)
    assert isinstance(pulse.lost_error, LockLostError)
    assert time.monotonic() - started < 30


def test_there_is_no_thread_of_it_while_psql_is_forked_nor_afterwards(lock: LivingLock) -> None:
    def beating() -> bool:
        return any(thread.name == "safecopy heartbeat" for thread in threading.enumerate())

    with Heartbeat(lock, AbortSwitch()) as pulse:
        assert beating()
        with pulse.pause():
            assert not beating()
        assert beating()
    assert not beating()


def test_it_does_not_hold_up_whoever_leaves(lock: LivingLock) -> None:
    lock.terms = Promise(stale_after=600)
    with Heartbeat(lock, AbortSwitch()):
        started = time.monotonic()
    assert time.monotonic() - started < 30  # a beat is minutes away


def test_a_signal_in_the_work_is_not_the_threads_to_handle(lock: LivingLock) -> None:
    heard: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(threading.current_thread().name))
    try:
        with Heartbeat(lock, AbortSwitch()):
            os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: bool(heard))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == ["MainThread"]

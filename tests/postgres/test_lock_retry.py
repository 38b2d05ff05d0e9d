"""Locks are retried in short steps with long pauses: others hardly queue behind a waiting session."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError
from airflow_provider_safecopy.postgres import lock_retry
from airflow_provider_safecopy.spec import Timeouts
from tests.support.customers import TABLE, spec
from tests.support.database import Database
from tests.support.until import until

SHARE = 0.05


@dataclass
class Waiter:
    """A caller of `retry`: what it asked for, and how it was asked to wait."""

    steps: list[float]
    ended: Callable[[], bool]
    end: float = float("inf")

    def work(self, step: float) -> str:
        self.steps.append(step)
        if self.ended():
            return "got it"
        raise psycopg.errors.LockNotAvailable

    def run(self, abort: AbortSwitch) -> str:
        def blocked(error: psycopg.errors.LockNotAvailable) -> None:
            if time.monotonic() > self.end:
                raise error

        return lock_retry.retry(
            self.work, abort=abort, read_deadline=lambda: self.end, on_blocked=blocked, on_wait=lambda: None
        )


def test_the_steps_are_a_twentieth_of_the_time_at_most_whichever_part_of_the_wait_is_looked_at() -> None:
    """The kind: a session that waits for a lock queues every later reader behind itself for as long as it asks."""
    pairs = [(step, lock_retry.compute_pause(step)) for step in itertools.islice(lock_retry.iterate_steps(), 400)]
    for first in range(len(pairs) - 12):
        part = pairs[first : first + 12]
        asked, rested = sum(step for step, _ in part), sum(pause for _, pause in part)
        assert asked / (asked + rested) <= SHARE
    assert max(step for step, _ in pairs) <= 0.2


def test_the_pause_ends_with_the_abort_and_the_wait_with_its_time() -> None:
    abort = AbortSwitch()
    waiter = Waiter([], ended=lambda: False)
    timer = threading.Timer(0.1, abort.throw, ["enough"])
    timer.start()
    with pytest.raises(AbortedError):
        waiter.run(abort)
    timer.join()
    late = Waiter([], ended=lambda: False, end=time.monotonic() + 0.2)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        late.run(AbortSwitch())
    assert late.steps == [lock_retry.STEP_SECONDS, lock_retry.LONG_STEP_SECONDS]


def test_a_lock_that_becomes_free_is_got_with_the_next_step() -> None:
    freed = iter([False, True])
    assert Waiter([], ended=lambda: next(freed)).run(AbortSwitch()) == "got it"


@pytest.mark.parametrize(
    "options",
    [
        {"publish": "swap"},
        {"publish": "truncate_insert"},
        {"publish": "delete_insert", "drift": "add_columns"},
    ],
    ids=["swap", "truncate_insert", "add_columns"],
)
def test_a_reader_beside_a_waiting_publish_hardly_queues(
    filled: tuple[Database, Database], options: dict[str, str]
) -> None:
    """Readers queue only while ours stands ungranted in the queue: counted there, from another session.

    The kind: waiting for ACCESS EXCLUSIVE in long steps with short pauses stops every reader for half of the time.
    """
    source, target = filled
    if "drift" in options:
        source.execute(f'ALTER TABLE {TABLE} ADD "비고" text')
    queued = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with target.connect() as holder, target.connect() as watch, ThreadPoolExecutor(1) as pool:
        holder.execute("BEGIN")
        holder.execute(f"SELECT count(*) FROM {TABLE}".encode())
        copying = pool.submit(
            pipeline.copy, spec(timeouts=Timeouts(publish=60), **options), source.endpoint, target.endpoint
        )
        looks = seen = 0
        until(lambda: copying.done() or watch.execute(queued.encode()).fetchone() != (0,))
        end = time.monotonic() + 8
        while time.monotonic() < end:
            seen += watch.execute(queued.encode()).fetchone() != (0,)
            looks += 1
        assert not copying.done()
        holder.execute("COMMIT")
        assert copying.result(100).inserted == 2000
    assert looks > 100
    assert seen / looks <= 2 * SHARE, f"{seen} of {looks} looks found us in the queue"


def test_readers_that_follow_each_other_without_a_gap_do_not_keep_a_publish_out(
    filled: tuple[Database, Database],
) -> None:
    """A step shorter than their queries alone would never end between two of them."""
    source, target = filled
    stop = threading.Event()

    def read() -> None:
        with target.connect() as session:
            while not stop.is_set():
                session.execute(f"SELECT count(*), pg_sleep(0.1) FROM {TABLE} LIMIT 1".encode())

    with ThreadPoolExecutor(4) as pool:
        try:
            readers = [pool.submit(read) for _ in range(3)]
            asked = spec(publish="swap", timeouts=Timeouts(publish=60))
            assert pipeline.copy(asked, source.endpoint, target.endpoint).inserted == 2000
        finally:
            stop.set()
        for reader in readers:
            reader.result(100)

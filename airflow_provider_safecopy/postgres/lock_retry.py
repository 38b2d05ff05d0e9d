"""Retry a lock in short steps with long pauses, so that other sessions hardly wait because of it.

A session that waits for a lock makes later sessions queue behind it, readers included. So each step is short, and each
pause is at least `_PAUSE_PER_STEP` times as long as the step before it: others queue for at most 4 % of the time. Every
fourth step is longer: if readers follow each other without a gap, a short step never reaches the end of one of them.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import psycopg

from airflow_provider_safecopy.abort import AbortSwitch

STEP_SECONDS = 0.05
LONG_STEP_SECONDS = 0.2

_PAUSE_PER_STEP = 24.0
_MAX_JITTER = 1.25
# An abort ends a pause at once; the tick is for `on_wait` alone.
_TICK_SECONDS = 0.2

Result = TypeVar("Result")


def retry(
    work: Callable[[float], Result],
    *,
    abort: AbortSwitch,
    read_deadline: Callable[[], float],
    on_blocked: Callable[[psycopg.errors.LockNotAvailable], None],
    on_wait: Callable[[], None],
) -> Result:
    """Call `work` with the length of a step, until it does not raise `LockNotAvailable`.

    `on_blocked` is called after each step without a lock; it rolls back, and raises when the wait has lasted too long.
    `read_deadline` returns that time: then the last step is taken, a long one. `on_wait` is called before each step
    and several times a second of a pause. Raises `AbortedError`.
    """
    for step in iterate_steps():
        last = time.monotonic() >= read_deadline()
        abort.check()
        on_wait()
        try:
            return work(LONG_STEP_SECONDS if last else step)
        except psycopg.errors.LockNotAvailable as error:
            on_blocked(error)
        _wait_pause(compute_pause(step), abort, read_deadline, on_wait)
    # There is always another step.
    raise AssertionError


def iterate_steps() -> Iterator[float]:
    """Return the lengths of the steps in seconds, as an endless iterator."""
    return itertools.cycle((STEP_SECONDS, STEP_SECONDS, STEP_SECONDS, LONG_STEP_SECONDS))


def compute_pause(step: float) -> float:
    """Return the pause after a step, with jitter, so that two waiters do not keep in step."""
    return step * _PAUSE_PER_STEP * random.uniform(1.0, _MAX_JITTER)  # noqa: S311 -- jitter


def _wait_pause(
    seconds: float, abort: AbortSwitch, read_deadline: Callable[[], float], on_wait: Callable[[], None]
) -> None:
    end = time.monotonic() + seconds
    while (left := min(end, read_deadline()) - time.monotonic()) > 0 and not abort.is_thrown:
        abort.wait(min(left, _TICK_SECONDS))
        on_wait()

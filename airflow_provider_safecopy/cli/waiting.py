"""Waiting for a busy lock: asked now and then, abortable at once, and not for ever.

A waiting run has no place in a queue: of several, the first to ask once the lock is free gets it.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.cli.progress import open_line
from airflow_provider_safecopy.display import format_seconds
from airflow_provider_safecopy.errors import LockBusyError, LockStoreError
from airflow_provider_safecopy.lock.liveness import is_gone
from airflow_provider_safecopy.lock.model import Holder
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.lock.refusal import busy_error
from airflow_provider_safecopy.lock.store import Store
from airflow_provider_safecopy.postgres.endpoint import Endpoint

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_POLL_SECONDS = 1.0
# A holder that is silent may have crashed, which only an attempt finds out. Each leaves a line in the history.
_ATTEMPT_SECONDS = 10.0


class LockWait:
    """Tries something until the lock it needs is free, at most for `seconds`.

    `store` is asked about the lock meanwhile. `telling` opens what tells people: who is waited for, and for how long.
    """

    def __init__(
        self,
        store: Store,
        *,
        seconds: float,
        abort: AbortSwitch,
        telling: Callable[[], AbstractContextManager[Callable[[str], None]]],
    ) -> None:
        self._store = store
        self._abort = abort
        self._telling = telling
        self._seconds = seconds
        self._began = time.monotonic()

    def until_free(self, attempt: Callable[[], _T]) -> _T:
        """Return what `attempt` answers. Raises `LockBusyError` once time is up, `AbortedError`, and what it raises."""
        while True:
            try:
                return attempt()
            except LockBusyError as error:
                if self._seconds_left <= 0:
                    raise
                with self._telling() as tell:
                    self._wait(error, tell)

    @property
    def _seconds_left(self) -> float:
        return self._began + self._seconds - time.monotonic()

    def _wait(self, error: LockBusyError, tell: Callable[[str], None]) -> None:
        """Return when the lock may be free."""
        tell(f"{error.message}; waiting for it, {format_seconds(self._seconds)} in all at most")
        tried, holder = time.monotonic(), None
        while True:
            pause = _POLL_SECONDS + random.uniform(0, _POLL_SECONDS / 2)  # noqa: S311 -- jitter
            self._abort.wait(min(pause, self._seconds_left))
            self._abort.check()
            try:
                holder = self._store.read_holder(error.lock)
            except LockStoreError as unknown:
                log.info("not known whether lock %s is free: %s", error.lock, unknown)
            else:
                if holder is None or _may_be_taken(holder, since=tried):
                    return
            if self._seconds_left <= 0:
                raise self._build_busy_error(error, holder)
            waited = format_seconds(time.monotonic() - self._began)
            tell(f"still waiting for lock {error.lock}, held by {holder or 'another run'}: {waited}")

    def _build_busy_error(self, error: LockBusyError, holder: Holder | None) -> LockBusyError:
        last = busy_error(holder) if holder else error
        last.add_note(f"waited {format_seconds(self._seconds)} for it")
        return last


def wait_for_lock(
    attempt: Callable[[], _T], target: Endpoint, abort: AbortSwitch, seconds: float, *, quiet: bool
) -> _T:
    """Return what `attempt` answers as soon as the lock it needs, in `target`, is free; told on stderr unless `quiet`."""
    store = PostgresStore(target)
    telling = partial(open_line, sys.stderr, quiet=quiet)
    try:
        return LockWait(store, seconds=seconds, abort=abort, telling=telling).until_free(attempt)
    finally:
        store.close()


def _may_be_taken(holder: Holder, *, since: float) -> bool:
    """Return whether an attempt is worthwhile; `since` is when the last one was made."""
    crashed = holder.is_quiet and time.monotonic() - since > _ATTEMPT_SECONDS
    return holder.is_stale or crashed or not holder.members or is_gone(holder)

"""The heartbeat of a copy: a thread that sends it for the work loop, and stops the run when the lock is lost.

The work loop reports how far it is; the thread never invents progress. While the work is one long statement on a
server, `is_working` returns whether that server works on it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import LockLostError
from airflow_provider_safecopy.lock.living_lock import LivingLock

log = logging.getLogger(__name__)


class Heartbeat:
    """The heartbeat of a lock that is held, inside ``with``. It throws `abort` once the lock is lost or about to be.

    `is_working` returns whether a server works on a bounded step. The thread calls it only if nothing has moved since
    the last heartbeat. It must not raise.
    """

    def __init__(self, lock: LivingLock, abort: AbortSwitch, *, is_working: Callable[[], bool] = lambda: False) -> None:
        self._lock = lock
        self._abort = abort
        self._working = is_working
        self._phase = 0
        self._count = 0
        # Written by the work's thread alone, as the two above are: so none of them needs a lock.
        self._steps = 0
        # Written by the heartbeat's thread alone.
        self._seen_working = 0
        self._beaten = (0, 0)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._unstarted: RuntimeError | None = None

    @property
    def lost_error(self) -> LockLostError | None:
        """The reason why the run was stopped, if it was."""
        return self._lock.lost_error

    def advance(self, phase: int, count: int) -> None:
        """Report how far the work is. Cheap, and for the work's thread only. Raises as `require_beat` does."""
        self.require_beat()
        if phase > self._phase:
            self._phase, self._count = phase, count
        else:
            self._count = max(self._count, count)

    def count_step(self) -> None:
        """Count a step that has no measure of its own. Raises as `require_beat` does."""
        self.require_beat()
        self._steps += 1

    def require_beat(self) -> None:
        """Raise RuntimeError if the thread could not be started, so that no heartbeat is sent."""
        if self._unstarted is not None:
            raise self._unstarted

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the thread during the block, so that psql can be forked. The block must be short.

        If the thread cannot be started again, `require_beat` raises later: an error here would lose the block's psql.
        """
        self._stop_thread()
        try:
            yield
        finally:
            self._start_thread()

    def __enter__(self) -> Self:
        self._start_thread()
        self.require_beat()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_thread()

    def _start_thread(self) -> None:
        self._stop.clear()
        thread = threading.Thread(target=self._run, name="safecopy heartbeat", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._unstarted = error
        else:
            self._thread = thread

    def _stop_thread(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        interval = self._lock.terms.interval
        while not self._stop.wait(max(0.0, min(interval, self._lock.seconds_left))):
            try:
                self._send_heartbeat()
                self._lock.check()
            except LockLostError as error:
                log.error("%s", error)  # noqa: TRY400 -- it is expected, and raised again by the run
                self._abort.throw(str(error))
                return

    def _send_heartbeat(self) -> None:
        if self._read_progress() == self._beaten and self._working():
            self._seen_working += 1
        # The thread that waits for this one to end must not wait for another question.
        if self._stop.is_set():
            return
        phase, count = at = self._read_progress()
        self._lock.send_heartbeat(phase=phase, count=count)
        self._beaten = at

    def _read_progress(self) -> tuple[int, int]:
        return self._phase, self._count + self._steps + self._seen_working

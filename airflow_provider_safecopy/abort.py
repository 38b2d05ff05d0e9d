"""A one-way stop switch, which ends all that hangs on it when a run is stopped."""

from __future__ import annotations

import math
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow_provider_safecopy.errors import AbortedError


class AbortSwitch:
    """A switch that is thrown once, never back, safely from a signal handler or another thread.

    `throw` takes no lock, allocates next to nothing and does no I/O but one byte into a pipe, because
    a signal handler may interrupt the very code that holds any lock (PEP 475 resumes what it stopped).
    What hangs on the switch must therefore be as simple: a flag, a signal to a child.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._process = os.getpid()
        self._hanging: list[Callable[[], object]] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __del__(self) -> None:
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def is_thrown(self) -> bool:
        """True once the switch is thrown."""
        return self.reason is not None

    def fileno(self) -> int:
        """Return a descriptor that becomes readable, for ever, once the switch is thrown."""
        return self._wake_read

    def wait(self, seconds: float) -> bool:
        """Wait until the switch is thrown, for `seconds` at most. Return whether it is."""
        return wait_for_input(self._wake_read, seconds)

    def throw(self, reason: str) -> None:
        """Stop the run. The first reason counts; later calls change nothing."""
        if self.is_thrown:
            return
        self.reason = reason
        # In a forked child, what hangs on the switch and the pipe are the parent's.
        if os.getpid() != self._process:
            return
        os.write(self._wake_write, b"!")
        for end in tuple(self._hanging):
            end()

    def check(self) -> None:
        """Raise `AbortedError` once the switch has been thrown."""
        if self.reason is not None:
            raise AbortedError(self.reason)

    @contextmanager
    def hang(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` when the switch is thrown inside this block, or at once if it already was."""
        self._hanging.append(end)
        try:
            if self.is_thrown:
                end()
            yield
        finally:
            self._hanging.remove(end)


def wait_for_input(descriptor: int, seconds: float) -> bool:
    """Wait until `descriptor` can be read, for `seconds` at most. Return whether it can.

    Uses poll, because select fails for descriptors from 1,024 on, and a busy worker has those.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(math.ceil(max(0.0, seconds) * 1000)))

"""The launch gate: connections to one source are opened one after the other, and not too close together.

It does not limit how many run, only how many start at once. It is a lock as any other, in the target's store, held
while a connection opens, and then resting for the interval. A crashed opener's is taken over: at once where its process
is seen to be gone, else when opening should long have ended. Copies into different targets do not see each other's.

Not gated: sessions that end what a failed run has left behind, and those of plans and doctors.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import over
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.store import Store

log = logging.getLogger(__name__)

# Between two looks at a gate that is held, at least and at most; and between two calls of `waiting`, at most.
_POLL_SECONDS = (0.02, 1.0)
_JITTER_SECONDS = 0.05


@dataclass(frozen=True)
class Gate:
    """The gate before `source`, as one opener sees it.

    None for `interval`: there is no gate. `opening_seconds` is how long opening may take; whoever takes longer has
    crashed.
    """

    store: Store
    source: str
    interval: float | None
    contender: Contender
    opening_seconds: float

    @contextmanager
    def turn(self, abort: AbortSwitch, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Open a connection inside the block: alone, and `interval` seconds after the one before was open.

        `waiting` is called about every second until then. Raises `AbortedError`, `LockStoreError`.
        """
        if self.interval is None:
            yield
            return
        with self._held(self._entered(self.interval, abort, waiting), self.interval):
            yield

    @contextmanager
    def glance(self) -> Iterator[bool]:
        """As `turn`, for who does not wait: inside, whether a connection may be opened. Raises `LockStoreError`."""
        if self.interval is None:
            yield True
            return
        asked = time.monotonic()
        answer = self._asked(self._opener())
        if isinstance(answer, Holder):
            yield False
            return
        with self._held((answer, asked), self.interval):
            yield True

    def _opener(self) -> Contender:
        """Nothing but an opener: no owner's members share the turn, and nobody ends a copy because of its gate."""
        asking, attempt = self.contender, uuid4()
        place = asking.place and replace(asking.place, may_end=False)
        return replace(
            asking,
            owner_key=f"{asking.owner_key}|launch {attempt}",
            member="launch",
            attempt=attempt,
            place=place,
            passing=True,
        )

    def _asked(self, opener: Contender) -> Lease | Holder:
        name, promise = f"launch {self.source}", Promise(stale_after=self.opening_seconds, crash_grace=None)
        with over.asking(opener.attempt):
            answer = self.store.acquire(name, opener, promise)
            if isinstance(answer, Holder) and (dead := over.gone(answer)):
                answer = self.store.acquire(name, opener, promise, dead=dead)
        return answer

    def _entered(self, interval: float, abort: AbortSwitch, waiting: Callable[[], None]) -> tuple[Lease, float]:
        """The turn, and by our own clock from when on it is certainly ours."""
        began, opener, refused = time.monotonic(), self._opener(), 0
        while True:
            abort.check()
            asked = time.monotonic()
            answer = self._asked(opener)
            if isinstance(answer, Lease):
                log.info("launch gate of %s: acquired after %.2f s (%s)", self.source, asked - began, answer.kind)
                return answer, asked
            if not refused:
                log.info("launch gate of %s: waiting; %s", self.source, _told(answer))
            refused += 1
            _pause(_seconds_to_wait(answer, interval, refused), abort, waiting)

    @contextmanager
    def _held(self, turn: tuple[Lease, float], interval: float) -> Iterator[None]:
        lease, asked = turn
        try:
            yield
            log.info("launch gate of %s: opened", self.source)
        finally:
            # The interval counts from now, when the connection is open; the store counts from its grant.
            self._leave(lease, at_least=time.monotonic() - asked + interval)

    def _leave(self, lease: Lease, at_least: float) -> None:
        try:
            self.store.release(lease, at_least=at_least)
            log.info("launch gate of %s: released", self.source)
        except LockStoreError as error:
            log.warning("launch gate of %s: could not be released, and opens by itself: %s", self.source, error)


def _seconds_to_wait(holder: Holder, interval: float, refused: int) -> float:
    """As long as nobody can be let in anyway; then who was refused more often is likely to come sooner."""
    least, most = _POLL_SECONDS
    # Held now: whoever holds it has yet to open, and then comes the interval; unless it has crashed.
    closed = holder.takeable_in if holder.owner_key is None else min(max(interval, least), most)
    return closed + random.uniform(0, _JITTER_SECONDS) / refused  # noqa: S311 -- jitter


def _pause(seconds: float, abort: AbortSwitch, waiting: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while True:
        waiting()
        left = deadline - time.monotonic()
        if left <= 0 or abort.thrown:
            return
        abort.wait(min(left, _POLL_SECONDS[1]))


def _told(holder: Holder) -> str:
    if holder.owner_key is None:
        return f"it opens in {holder.takeable_in:.2f} s"
    places = [f"pid {seen.place.pid} on {seen.place.host}" for seen in holder.members if seen.place]
    return f"{holder} ({'; '.join(places) or 'nowhere known'}) is opening a connection"

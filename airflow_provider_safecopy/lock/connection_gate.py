"""The connection gate: connections to one source open one after the other, with pauses. The log calls it launch gate.

It does not limit how many run, only how many start at once. It is a lock like any other, in the target's store. It is
held while a connection opens, and rests for the interval afterwards. The gate of a crashed opener is taken over: at
once if its process is seen to be gone, else when opening should long have ended. Copies into different targets have
different gates.

A copy opens its control session and its psqls in one turn. If more than half of the time that opening may take lies
between them, because its tables are locked or its plan takes long, it gives that turn up and takes another one.

Not gated: sessions that end what a failed run has left behind, and those of plans and doctors.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import liveness
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.store import Store

log = logging.getLogger(__name__)

# The least and the longest pause. The longest is short, because `on_wait` must be called about every second.
_POLL_SECONDS = (0.02, 1.0)
_JITTER_SECONDS = 0.05


@dataclass(frozen=True)
class ConnectionGate:
    """The gate before `source`, as one opener sees it.

    An `interval` of None means that there is no gate. `opening_seconds` is how long opening may take; an opener that takes longer has
    crashed.
    """

    store: Store
    source: str
    interval: float | None
    contender: Contender
    opening_seconds: float

    @contextmanager
    def wait_turn(self, abort: AbortSwitch, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for the turn to open a connection inside the block: alone, and `interval` seconds after the last.

        `on_wait` is called about every second until then. Raises `AbortedError`, `LockStoreError`.
        """
        if self.interval is None:
            yield
            return
        with self._hold_turn(self._acquire_turn(self.interval, abort, on_wait), self.interval):
            yield
            self._log_opened()

    @contextmanager
    def try_enter(self) -> Iterator[bool]:
        """Yield whether a connection may be opened in the block, without a wait. Raises `LockStoreError`."""
        if self.interval is None:
            yield True
            return
        asked = time.monotonic()
        answer = self._request(self._build_opener())
        if isinstance(answer, Holder):
            yield False
            return
        with self._hold_turn((answer, asked), self.interval):
            yield True
            self._log_opened()

    def _build_opener(self) -> Contender:
        """Return a contender that is an opener alone.

        No member of its owner shares the turn, and no run ends a copy because of its gate.
        """
        asking, attempt = self.contender, uuid4()
        place = asking.process and replace(asking.process, may_end=False)
        return replace(
            asking,
            owner_key=f"{asking.owner_key}|launch {attempt}",
            member="launch",
            attempt=attempt,
            process=place,
            is_passing=True,
        )

    def _request(self, opener: Contender) -> Lease | Holder:
        name, promise = f"launch {self.source}", Promise(stale_after=self.opening_seconds, crash_grace=None)
        with liveness.track_request(opener.attempt):
            answer = self.store.acquire(name, opener, promise)
            if isinstance(answer, Holder) and (dead := liveness.find_gone(answer)):
                answer = self.store.acquire(name, opener, promise, dead=dead)
        return answer

    def _acquire_turn(self, interval: float, abort: AbortSwitch, on_wait: Callable[[], None]) -> tuple[Lease, float]:
        """Return the lease of the turn, and the time on our clock from which it is certainly ours."""
        began, opener, refused = time.monotonic(), self._build_opener(), 0
        while True:
            abort.check()
            asked = time.monotonic()
            answer = self._request(opener)
            if isinstance(answer, Lease):
                log.info("launch gate of %s: acquired after %.2f s (%s)", self.source, asked - began, answer.kind)
                return answer, asked
            if not refused:
                log.info("launch gate of %s: waiting; %s", self.source, _describe_holder(answer))
            refused += 1
            _pause(_seconds_to_wait(answer, interval, refused), abort, on_wait)

    @contextmanager
    def _hold_turn(self, grant: tuple[Lease, float], interval: float) -> Iterator[None]:
        lease, asked = grant
        try:
            yield
        finally:
            # The interval counts from now, when the connection is open; the store counts from its grant.
            self._release(lease, at_least=time.monotonic() - asked + interval)

    def _log_opened(self) -> None:
        log.info("launch gate of %s: opened", self.source)

    def _release(self, lease: Lease, at_least: float) -> None:
        try:
            self.store.release(lease, at_least=at_least)
            log.info("launch gate of %s: released", self.source)
        except LockStoreError as error:
            log.warning("launch gate of %s: could not be released, and opens by itself: %s", self.source, error)


class Opening:
    """The turn in which a copy opens all connections to a source. Always `close` it, as soon as they are open."""

    def __init__(self, gate: ConnectionGate, abort: AbortSwitch) -> None:
        self._gate = gate
        self._abort = abort
        self._turn = ExitStack()
        self._until = float("-inf")

    @contextmanager
    def turn(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Open a connection inside the block: in the turn that is held, else in a new one.

        The turn is still held after the block. Raises as `ConnectionGate.wait_turn` does.
        """
        gate = self._gate
        if gate.interval is None:
            yield
            return
        if not self._holds():
            self.close()
            lease, asked = gate._acquire_turn(gate.interval, self._abort, waiting)  # noqa: SLF001 -- one thing, in two classes
            self._turn.enter_context(gate._hold_turn((lease, asked), gate.interval))  # noqa: SLF001 -- as above
            self._until = asked + gate.opening_seconds / 2
        yield
        gate._log_opened()  # noqa: SLF001 -- as above

    @contextmanager
    def glance(self) -> Iterator[bool]:
        """Yield whether a connection may be opened in the block: yes in the turn that is held."""
        if self._holds():
            yield True
            return
        with self._gate.try_enter() as mine:
            yield mine

    def close(self) -> None:
        """Let the next opener in, after the interval. A second call does no harm."""
        self._until = float("-inf")
        self._turn.close()

    def _holds(self) -> bool:
        """Return whether the turn is ours long enough to open a connection, by our own clock."""
        return time.monotonic() < self._until


def _seconds_to_wait(holder: Holder, interval: float, refused: int) -> float:
    """Return the seconds for which no opener can be let in anyway, and a random share more."""
    # The share shrinks with each refusal: an opener that was refused more often is likely to come sooner.
    least, most = _POLL_SECONDS
    # Held now: the holder has yet to open, and then comes the interval; unless it has crashed.
    closed = holder.seconds_to_takeover if holder.owner_key is None else min(max(interval, least), most)
    return closed + random.uniform(0, _JITTER_SECONDS) / refused  # noqa: S311 -- jitter


def _pause(seconds: float, abort: AbortSwitch, on_wait: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while True:
        on_wait()
        left = deadline - time.monotonic()
        if left <= 0 or abort.is_thrown:
            return
        abort.wait(min(left, _POLL_SECONDS[1]))


def _describe_holder(holder: Holder) -> str:
    if holder.owner_key is None:
        return f"it opens in {holder.seconds_to_takeover:.2f} s"
    places = [f"pid {seen.process.pid} on {seen.process.host}" for seen in holder.members if seen.process]
    return f"{holder} ({'; '.join(places) or 'nowhere known'}) is opening a connection"

"""The launch gate: connections to one source are opened one after the other, and not too close together.

It does not limit how many run, only how many start at once. It is a lock as any other, in the target's store, held
while a connection opens, and then resting for the interval. A crashed opener's is taken over: at once where its process
is seen to be gone, else when opening should long have ended. Copies into different targets do not see each other's.

A copy opens its control session and its psqls in one turn. It gives that turn up where more than half of the time that
opening may take lies between them, because its tables are locked or its plan takes long, and takes another one then.

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

# Between two looks at a gate that is held, at least and at most; and between two calls of `on_wait`, at most.
_POLL_SECONDS = (0.02, 1.0)
_JITTER_SECONDS = 0.05


@dataclass(frozen=True)
class ConnectionGate:
    """The gate before `source`, as one opener sees it.

    None for `interval`: there is no gate. `opening_seconds` is how long opening may take; an opener that takes longer has
    crashed.
    """

    store: Store
    source: str
    interval: float | None
    contender: Contender
    opening_seconds: float

    @contextmanager
    def wait_turn(self, abort: AbortSwitch, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Open a connection inside the block: alone, and `interval` seconds after the one before was open.

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
        """As `turn`, for who does not wait: inside, whether a connection may be opened. Raises `LockStoreError`."""
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
        """Nothing but an opener: no owner's members share the turn, and no run ends a copy because of its gate."""
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
        """The turn, and by our own clock from when on it is certainly ours."""
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
    """The turn in which a copy opens all that it needs of a source. Always `close` it, as soon as nothing is missing."""

    def __init__(self, gate: ConnectionGate, abort: AbortSwitch) -> None:
        self._gate = gate
        self._abort = abort
        self._turn = ExitStack()
        self._until = float("-inf")

    @contextmanager
    def turn(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Open a connection inside the block: in the turn that is held, else in a new one. Raises as `Gate.turn` does.

        The turn is held on after the block.
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
        """As `Gate.glance`; in the turn that is held, a connection may be opened."""
        if self._holds():
            yield True
            return
        with self._gate.try_enter() as mine:
            yield mine

    def close(self) -> None:
        """Let the next opener in, after the interval. Twice is harmless."""
        self._until = float("-inf")
        self._turn.close()

    def _holds(self) -> bool:
        """Whether the turn is ours for long enough to open a connection; by our own clock."""
        return time.monotonic() < self._until


def _seconds_to_wait(holder: Holder, interval: float, refused: int) -> float:
    """As long as no opener can be let in anyway; then who was refused more often is likely to come sooner."""
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

"""The living lock: alive only while its holder makes progress.

For copies, and for any other scheduled job::

    with LivingLock("야간_집계", "host=dw dbname=dw") as lock:
        for batch in batches:
            work(batch)
            lock.heartbeat()
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from airflow_provider_safecopy.errors import ConfigError, LockBusyError, LockLostError, LockStoreError
from airflow_provider_safecopy.lock import liveness
from airflow_provider_safecopy.lock.liveness import Displacement, end_displaced
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from airflow_provider_safecopy.lock.refusal import busy_error, read_holders, self_stop_error
from airflow_provider_safecopy.lock.store import Store
from airflow_provider_safecopy.postgres import wire
from airflow_provider_safecopy.postgres.endpoint import Endpoint

log = logging.getLogger(__name__)


def release_leases(store: Store, leases: Iterable[Lease]) -> None:
    """Release each lease, even if an earlier one fails; a takeover clears up after a silent store."""
    with ExitStack() as stack:
        for lease in leases:
            stack.callback(_release_lease, store, lease)


def release_unconfirmed(store: Store, contender: Contender, names: Iterable[str], error: BaseException) -> None:
    """Release what `contender` may have been granted although `error` came instead of the answer."""
    if isinstance(error, LockBusyError) or isinstance(error.__cause__, wire.LateError):
        # The lock was not granted, or the store is silent and would stay so.
        return
    for name in names:
        try:
            holder = store.read_holder(name)
        except LockStoreError as unknown:
            log.debug("lock %s: cannot tell whether it was granted: %s", name, unknown)
            return
        for seen in holder.members if holder is not None else ():
            if holder is not None and seen.attempt == str(contender.attempt):
                _release_lease(store, holder.build_lease(seen))


def _release_lease(store: Store, lease: Lease) -> None:
    try:
        store.release(lease)
    except LockStoreError as error:
        liveness.mark_finished(lease.attempt)
        log.warning("lock %s could not be released; the next run takes it over: %s", lease.name, error)
    # Raised by a signal: the release may be incomplete.
    except BaseException:
        liveness.mark_finished(lease.attempt)
        with suppress(LockStoreError):
            store.release(lease)
        raise


# A holder with a heartbeat this recent has not crashed.
_ALIVE_SECONDS = 10.0

LivenessCheck = Callable[[Holder], Collection[str]]
"""Returns the attempts of a holder that are certainly gone, as far as it knows more than the store."""


class LivingLock:
    """One or several locks, held together or not at all, by one attempt.

    `where` is the database they live in (a conninfo or an `Endpoint`), a directory of this host (a `Path`), or any
    `Store`. `contender` asks for them, by default a process that shares its locks with no other; each attempt of one
    owner is a member. `promise` says when others may take the locks over: after ``stale_after`` seconds without
    progress, or ``crash_grace`` seconds after the holder has vanished. `judge` may know that a holder is gone when
    this machine does not. `relatives` are locks that no other attempt may hold while this one holds its own: those of a
    table's partitions and parents. Each attempt asks for them after it holds its own lock, so at least one of two gives
    up.

    Progress is each call of `heartbeat`: make it where something was done, never from a timer. Calls closer
    together than `minimum_heartbeat_interval`, in seconds and by default `promise.interval`, cost nothing. It may not be
    longer than half of `stale_after`, nor of `crash_grace`. There is no thread in here.

    Not promised: that a holder which does not call `heartbeat` or `check` notices that it lost the lock. SQL in the
    database of the lock is safe nevertheless if its transaction calls `fence`.

    A forked child holds nothing: leaving the block there changes nothing, and the child makes a lock of its own.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        where: str | Path | Endpoint | Store,
        *,
        contender: Contender | None = None,
        promise: Promise | None = None,
        judge: LivenessCheck | None = None,
        relatives: Iterable[str] = (),
        minimum_heartbeat_interval: float | None = None,
    ) -> None:
        self.relatives = frozenset(relatives)
        # In one order, or two runs could refuse each other.
        self.names = tuple(sorted({names} if isinstance(names, str) else set(names)))
        for name in self.names:
            if not name.strip() or "\0" in name:
                raise ConfigError("the name of a lock may be neither blank nor hold a NUL")
        self.contender = contender or Contender.alone()
        self.terms = promise or Promise()
        self.minimum_heartbeat_interval = _checked_interval(minimum_heartbeat_interval, self.terms)
        self.store = _open_store(where, self.contender)
        self.leases: tuple[Lease, ...] = ()
        self.lost_error: LockLostError | None = None
        self.store_answers = True
        """True if the store answered the last heartbeat."""
        self._judge = judge
        self._judged: dict[str, Mapping[str, str]] = {}
        self._count = 0
        self._beaten = self._until = 0.0

    def acquire(self) -> Self:
        """Acquire all the locks, unless they are held. If it raises, it holds none.

        Raises `LockBusyError`, `LockStoreError`.
        """
        if self.leases:
            return self
        taken: list[Lease] = []
        started = time.monotonic()
        try:
            for name in self.names:
                taken.append(self._acquire_lock(name))  # noqa: PERF401 -- what was taken before an error is given back
            self.leases, self.lost_error = tuple(taken), None
            self._beaten, self._until = started, self._compute_stop(started, (lease.remaining for lease in taken))
            self._show_presence()
            for lease in taken:
                self._end_displaced(lease)
            # Only now: of two relatives that acquire at the same time, the later one is certain to see the other.
            for holder in read_holders(self.store, self.relatives):
                self._displace(holder)
        except BaseException as error:
            self.leases = ()
            self._release_leases(taken)
            liveness.remove_note(self.contender)
            release_unconfirmed(self.store, self.contender, self.names[len(taken) :], error)
            raise
        return self

    def peek(self) -> bool:
        """Raise `LockBusyError` if a lock is busy for certain. Acquires none; False promises nothing.

        True: another run, or an earlier attempt of this member, has one, and may have locked what a plan would look at.
        """
        held = False
        for name in self.names:
            try:
                holder = self.store.read_holder(name)
            except LockStoreError as error:
                log.debug("not known yet: %s", error)
                break
            if holder is not None and self._is_alive(holder):
                self.store.record_refusal(name, self.contender)
                raise busy_error(holder)
            if holder is not None:
                ours = holder.owner_key == self.contender.owner_key
                held = held or not ours or self.contender.member in {seen.member for seen in holder.members}
        # The store may not exist yet.
        with suppress(LockStoreError):
            for holder in read_holders(self.store, self.relatives):
                if self._is_alive(holder):
                    self.store.record_refusal(holder.name, self.contender)
                    raise busy_error(holder)
                held = held or holder.owner_key != self.contender.owner_key
        return held

    def heartbeat(self, progress: int | None = None) -> None:
        """Report progress: `progress` in all so far, or by default one step more.

        Raises `LockLostError` when the lock is another run's, or has not been extended in time; `ConfigError` when
        it was never acquired, or released.
        """
        if not self.leases and self.lost_error is None:
            raise ConfigError(f"lock {', '.join(self.names)}: it is not held; acquire it before the first heartbeat")
        self._count = self._count + 1 if progress is None else progress
        if self.leases and time.monotonic() - self._beaten >= self.minimum_heartbeat_interval:
            self.send_heartbeat(phase=0, count=self._count)
        self.check()

    def check(self) -> None:
        """Raise `LockLostError` if the lock is lost, or its promise is about to end. Asks no server."""
        if self.lost_error is None and self.leases and self.seconds_left <= 0:
            self.lost_error = self_stop_error(self.leases[0], self.terms)
        if self.lost_error is not None:
            raise self.lost_error

    @property
    def seconds_left(self) -> float:
        """Seconds that this holder may go on without any confirmed progress, before it stops itself."""
        return self._until - time.monotonic()

    @property
    def displaced_attempts(self) -> tuple[str, ...]:
        """The attempts that held these locks before and were displaced."""
        return tuple(attempt for lease in self.leases if lease.displaced for attempt in lease.displaced.attempts)

    @property
    def takeovers(self) -> tuple[str, ...]:
        """The takeovers of these locks in words: from which holder, and why; empty if they were free."""
        return tuple(
            f"lock {lease.name} was taken over from {lease.displaced} ({lease.kind})"
            for lease in self.leases
            if lease.displaced is not None
        )

    @property
    def backends(self) -> tuple[int, ...]:
        """The server sessions the lock itself uses, by their process ids."""
        return self.store.backends

    def send_heartbeat(self, *, phase: int, count: int) -> None:
        """Send a heartbeat now. Raises `LockLostError`; a store that does not answer is only logged."""
        started = time.monotonic()
        try:
            remaining = [self.store.heartbeat(lease, phase=phase, count=count) for lease in self.leases]
        except LockLostError as error:
            self.lost_error = error
            raise
        except LockStoreError as error:
            self.store_answers = False
            log.warning("no heartbeat: %s", error)
            return
        self.store_answers = True
        self._beaten, self._until = started, self._compute_stop(started, remaining)
        self._show_presence()

    def fence(self, connection: psycopg.Connection[Any]) -> None:
        """Keep the locks until COMMIT, in a transaction of their database. Raises `FencedOutError`."""
        if not isinstance(self.store, PostgresStore):
            raise ConfigError("only locks in a database can fence a transaction of it")
        for lease in self.leases:
            check_fence(connection, lease)

    def release(self) -> None:
        """Release the locks and close the store. No harm if done twice, or after they were lost."""
        leases, self.leases = self.leases, ()
        try:
            self._release_leases(leases)
        finally:
            liveness.remove_note(self.contender)
            self.store.close()

    def __enter__(self) -> Self:
        try:
            return self.acquire()
        except BaseException:
            self.store.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _acquire_lock(self, name: str) -> Lease:
        with liveness.track_request(self.contender.attempt):
            answer = self.store.acquire(name, self.contender, self.terms)
            if isinstance(answer, Holder) and (dead := self._find_gone(answer)):
                # The note of the holder's process is compared with the run that was found finished.
                self._judged[name] = answer.owner
                answer = self.store.acquire(name, self.contender, self.terms, dead=dead)
        if isinstance(answer, Lease):
            return answer.without_own_attempt()
        self.store.record_refusal(name, self.contender)
        raise busy_error(answer)

    def _displace(self, holder: Holder) -> None:
        """Fence out a holder that is gone. Raise `LockBusyError` for a living one, one of this very run included."""
        if holder.owner_key != self.contender.owner_key:
            # Held for a moment, so that the token grows and the former holder cannot publish.
            lease = self._acquire_lock(holder.name)
            try:
                self._end_displaced(lease)
            finally:
                self._release_leases([lease])
            return
        dead, members = self._find_gone(holder), {seen.attempt for seen in holder.members}
        gone = holder.is_stale or members <= dead
        displaced = self.store.reap(holder.name, dead=dead, reason="its member is gone") if gone else None
        if displaced is None:
            self.store.record_refusal(holder.name, self.contender)
            raise busy_error(holder)
        self.store.end_sessions(displaced)

    def _is_alive(self, holder: Holder) -> bool:
        """Return whether the holder is another run that no rule lets this one displace now."""
        quiet = holder.quiet_seconds > _ALIVE_SECONDS
        return holder.owner_key != self.contender.owner_key and not (
            holder.is_stale or self._find_gone(holder) or quiet
        )

    def _find_gone(self, holder: Holder) -> set[str]:
        return liveness.find_gone(holder) | set(self._judge(holder) if self._judge else ())

    def _end_displaced(self, lease: Lease) -> None:
        """End what a displaced holder still has: sessions in the store's server, and processes on this machine."""
        log.info("lock %s: token %d (%s)", lease.name, lease.token, lease.kind)
        if lease.displaced is not None:
            own, judged = self.contender, self._judged.get(lease.name, {})
            by = Displacement(lease.kind, self.store.label, lease.name, own.owner_key, own.member, judged)
            end_displaced(self.store, lease.displaced, by)

    def _show_presence(self) -> None:
        """Leave or renew the presence note: which process this is, and until when its promise is good."""
        liveness.write_note(
            self.contender,
            store=self.store.label,
            names=tuple(lease.name for lease in self.leases),
            seconds_left=self.seconds_left + self.terms.margin,
            crash_grace=self.terms.crash_grace,
        )

    def _release_leases(self, leases: Iterable[Lease]) -> None:
        release_leases(self.store, leases)

    def _compute_stop(self, started: float, remaining: Iterable[float]) -> float:
        """Return the time to stop, by this process's clock, counted from before the store was asked."""
        return started + min(remaining) - self.terms.margin


def _checked_interval(seconds: object, promise: Promise) -> float:
    """Return the interval between heartbeats. Raises `ConfigError` for one that could not keep the lock."""
    if seconds is None:
        return promise.interval
    most = min(promise.stale_after, promise.crash_grace or promise.stale_after) / 2
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= most:
        raise ConfigError(
            f"minimum_heartbeat_interval={seconds!r} must be a number of seconds from 0 to {most:g}, which is half of "
            "the shorter one of stale_after and crash_grace"
        )
    return float(seconds)


def _open_store(where: str | Path | Endpoint | Store, contender: Contender) -> Store:
    if isinstance(where, str):
        where = Endpoint.from_conninfo(where)
    if isinstance(where, Path):
        from airflow_provider_safecopy.lock.file_store import FileStore

        return FileStore(where)
    return PostgresStore(where, attempt=contender.attempt) if isinstance(where, Endpoint) else where

"""The store of locks in a directory, for the processes of one host alone.

What it is: an early answer that a lock is busy, and evidence of a crash at once. A member holds a flock as long as it
lives; where that is free, and pid, start time and boot id say that its process has ended, it is gone. Where they
cannot say so (another pid namespace), it has crashed once it has sent no heartbeat for its `crash_grace` either.

What it is not: a fence. Nothing in here stops the COMMIT of a run that was paused and lost its lock: that takes
`PostgresStore`, in the target. Nor is it for several hosts: not on NFS; and containers that share a directory but no
pid namespace see each other's crashes late. Nothing in the directory may be removed, least of all by something that
cleans up: tokens would begin again at 1, and a holder would lose its lock.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice
from pathlib import Path

from airflow_provider_safecopy.errors import LockLostError, LockStoreError
from airflow_provider_safecopy.lock import file_record, process
from airflow_provider_safecopy.lock.file_record import FileRecord
from airflow_provider_safecopy.lock.file_state import LockState
from airflow_provider_safecopy.lock.flock import Flock
from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Event, Holder, Lease, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity

log = logging.getLogger(__name__)

Clock = Callable[[], float]


def read_boot_clock() -> float:
    """Return the seconds since boot, suspended or not. No process can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def to_wall_time(instant: float) -> datetime:
    """Return the wall's time of an instant, for people: now, less its age."""
    return datetime.now(UTC) + timedelta(seconds=instant - read_boot_clock())


def read_state(record: FileRecord, boot: str | None, now: float) -> LockState | None:
    """Return the lock's state on the clock of this boot; None before the first grant."""
    state = record.read_state()
    return None if state is None else state.rebase(boot, now=now, wall=to_wall_time(now).timestamp())


@dataclass(frozen=True)
class Turn:
    """A turn with one lock: its files, its state and the time."""

    record: FileRecord
    state: LockState
    now: float

    @classmethod
    @contextmanager
    def begin(cls, record: FileRecord, name: str, boot: str | None, clock: Clock) -> Iterator[Turn]:
        """Wait for the turn, and yield it. Raises OSError, `LockStoreError`."""
        with record.hold_guard():
            now = clock()
            yield cls(record, read_state(record, boot, now) or LockState(name, boot=boot), now)

    def write(self, state: LockState) -> None:
        """Write the lock's state, with the time."""
        self.record.write_state(replace(state, written_at=self.now, written_wall=to_wall_time(self.now).timestamp()))

    def add_event(
        self,
        kind: str,
        token: int,
        contender: Contender | None = None,
        *,
        displaced: DisplacedHolder | None = None,
        reason: str | None = None,
    ) -> None:
        """Add an event to the history. A failure is logged alone: what has happened stays."""
        event = Event(
            at=to_wall_time(self.now),
            name=self.state.name,
            token=token,
            kind=kind,
            owner_key=contender.owner_key if contender else None,
            owner=dict(contender.owner) if contender else {},
            member=contender.member if contender else None,
            attempt=str(contender.attempt) if contender else None,
            prev_owner_key=displaced.owner_key if displaced else None,
            detail=({"reason": reason} if reason else {}) | ({"from": dict(displaced.owner)} if displaced else {}),
        )
        try:
            self.record.history.append(event)
        except OSError as error:
            log.warning("lock %s: its history could not be written: %s", event.name, error)


_THREAD_WAIT_SECONDS = 10.0


class FileStore:
    """Locks in `directory`, which is made for this user alone if only the last part of its path is missing.

    `clock` counts seconds since boot; the wall's time is only shown. `remove_on_release` removes the files of a lock that
    is free again, its history too, and the directory if nothing else lies in it; its tokens then begin again at 1.
    Threads take turns. A forked child holds none of its parent's locks, and cannot use its parent's store: it makes its
    own.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, clock: Clock = read_boot_clock, remove_on_release: bool = False
    ) -> None:
        self.directory = Path(directory)
        self._remove_on_release = remove_on_release
        self._clock = clock
        self._boot = ProcessIdentity.read_current().boot_id
        self._process = os.getpid()
        self._thread = threading.Lock()
        self._lives: dict[tuple[str, str], Flock] = {}

    @property
    def label(self) -> str:
        """See `Store`."""
        return str(self.directory.absolute())

    @property
    def backends(self) -> tuple[int, ...]:
        """See `Store`: none, there is no server."""
        return ()

    def acquire(self, name: str, contender: Contender, terms: Promise, *, dead: Collection[str] = ()) -> Lease | Holder:
        """See `Store`. Attempts that are seen to be gone from this host need not be named in `dead`."""
        with self._take_turn(name) as turn:
            state, now = turn.state, turn.now
            unheld = {attempt for attempt in state.attempts if not turn.record.is_held(attempt)}
            gone = {*dead, *(unheld & state.find_ended(self._boot))}
            kind = state.choose_kind(contender, now, dead=gone, silent=unheld >= {*state.attempts})
            if kind is None:
                return state.as_holder(now, to_wall_time)
            taken, displaced = state.grant(contender, terms, kind, now), state.find_displaced(kind, contender)
            # The flock first: a member without one would look crashed.
            self._hold_flock(turn, contender)
            turn.write(taken)
            turn.record.remove_flocks({*state.attempts} - {*taken.attempts})
            if kind.startswith("takeover"):
                turn.add_event(kind, taken.token, contender, displaced=displaced)
            # The gate is passed for every connection: so many events would tell a person nothing.
            elif not contender.is_passing:
                turn.add_event(kind, taken.token, contender)
            return taken.as_lease(contender, kind, now, displaced)

    def heartbeat(self, lease: Lease, *, phase: int, count: int) -> float:
        """See `Store`. A lease that was revoked is lost as well."""
        with self._take_turn(lease.name) as turn:
            key = lease.contender.member
            # Without a fence, the heartbeat alone can tell an attempt that it was revoked.
            if not turn.state.is_current(lease) or turn.state.members[key].revoked:
                self._drop_flock(turn, lease.contender)
                raise _lost_error(lease)
            # Held again after `close`: the holder lives after all.
            self._hold_flock(turn, lease.contender)
            state = turn.state.record_heartbeat(key, (phase, count), turn.now)
            turn.write(state)
            return state.due_at - turn.now

    def release(self, lease: Lease, *, at_least: float = 0) -> bool:
        """See `Store`. Does nothing in a forked child, which may leave a block that its parent entered."""
        if not process.is_own_process(self._process):
            return False
        with self._take_turn(lease.name) as turn:
            self._drop_flock(turn, lease.contender)
            if not turn.state.is_current(lease):
                return False
            state = turn.state.remove_member(lease.contender.member, turn.now, at_least=at_least)
            turn.write(state)
            freed = state.lease_id is None
            if not lease.contender.is_passing:
                turn.add_event("release" if freed else "leave", state.token, lease.contender)
            # A lock that still rests needs its file, which says until when.
            if freed and self._remove_on_release and not at_least:
                turn.record.remove()
            return freed

    def revoke(self, lease: Lease) -> bool:
        """See `Store`. The attempt itself learns it at its next heartbeat."""
        with self._take_turn(lease.name) as turn:
            key = lease.contender.member
            if not turn.state.is_current(lease) or turn.state.members[key].revoked:
                return False
            turn.write(turn.state.revoke_member(key))
            turn.add_event("revoke", lease.token, lease.contender)
            return True

    def force_release(self, name: str, *, reason: str) -> DisplacedHolder | None:
        """See `Store`."""
        return self._force(name, "force-release", reason, lambda _: True)

    def reap(
        self, name: str, *, overdue: float = 0, dead: Collection[str] = (), reason: str = "overdue"
    ) -> DisplacedHolder | None:
        """See `Store`."""

        def due(turn: Turn) -> bool:
            return turn.state.due_at < turn.now - overdue or {*turn.state.attempts} <= {*dead}

        return self._force(name, "reap", reason, due)

    def end_sessions(self, displaced: DisplacedHolder) -> int:  # noqa: ARG002 -- the signature is the store's
        """See `Store`: none, there is no server."""
        return 0

    def read_holder(self, name: str) -> Holder | None:
        """See `Store`."""
        return self._read_holder(FileRecord.for_lock(self.directory, name))

    def read_holders(self) -> tuple[Holder, ...]:
        """See `Store`."""
        found = [holder for record in self._list_records() if (holder := self._read_holder(record)) is not None]
        return tuple(sorted(found, key=lambda holder: holder.name))

    def record_refusal(self, name: str, contender: Contender) -> None:
        """See `Store`."""
        with self._take_turn(name) as turn:
            if turn.state.token:
                turn.write(replace(turn.state, refused=turn.state.refused + 1))
                turn.add_event("refused", turn.state.token, contender)

    def read_history(self, name: str | None = None, *, limit: int = 100) -> tuple[Event, ...]:
        """See `Store`. Of thousands of events, the oldest are gone."""
        records = self._list_records() if name is None else [FileRecord.for_lock(self.directory, name)]
        with file_record.translate_errors(self.directory):
            newest_first = [reversed(record.history.read_events()) for record in records]
        # Events of one lock stay in the order of writing, even if the wall's clock was set meanwhile.
        return tuple(islice(merge(*newest_first, key=lambda event: event.at, reverse=True), limit))

    def forget(self, *, keep: float) -> int:
        """See `Store`."""
        with file_record.translate_errors(self.directory):
            names = [state.name for record in self._list_records() if (state := record.read_state()) is not None]
        return sum(self._forget_lock(name, keep) for name in names)

    def close(self) -> None:
        """See `Store`. A holder that closes its store has crashed, unless a heartbeat follows within its grace."""
        while self._lives:
            self._lives.popitem()[1].close()

    @contextmanager
    def _take_turn(self, name: str) -> Iterator[Turn]:
        """Hold one lock's files alone, in this process and on this host, and yield the turn."""
        process.require_own_process(self._process, self.directory)
        if not self._thread.acquire(timeout=_THREAD_WAIT_SECONDS):
            raise LockStoreError(f"{self.directory}: another thread has been using this store for too long")
        try:
            with file_record.translate_errors(self.directory):
                record = FileRecord.for_lock(self.directory, name)
                with Turn.begin(record, name, self._boot, self._clock) as turn:
                    yield turn
        finally:
            self._thread.release()

    def _force(self, name: str, kind: str, reason: str, is_due: Callable[[Turn], bool]) -> DisplacedHolder | None:
        with self._take_turn(name) as turn:
            displaced = turn.state.find_displaced()
            if displaced is None or not is_due(turn):
                return None
            state = turn.state.force_free()
            turn.write(state)
            turn.record.remove_flocks(displaced.attempts)
            turn.add_event(kind, state.token, displaced=displaced, reason=reason)
            return displaced

    def _forget_lock(self, name: str, keep: float) -> int:
        with self._take_turn(name) as turn:
            left = turn.record.list_attempts() - {*turn.state.attempts}
            turn.record.remove_flocks(left)
            return len(left) + turn.record.history.drop_older(to_wall_time(turn.now) - timedelta(seconds=keep))

    def _list_records(self) -> list[FileRecord]:
        with file_record.translate_errors(self.directory):
            return FileRecord.find_all(self.directory)

    def _read_holder(self, record: FileRecord) -> Holder | None:
        now = self._clock()
        with file_record.translate_errors(self.directory):
            state = read_state(record, self._boot, now)
        return None if state is None or state.lease_id is None else state.as_holder(now, to_wall_time)

    def _hold_flock(self, turn: Turn, contender: Contender) -> None:
        """Hold the attempt's flock, unless another store of this process holds it already."""
        attempt = str(contender.attempt)
        key = turn.record.stem, attempt
        if key not in self._lives and (life := turn.record.hold_flock(attempt)) is not None:
            self._lives[key] = life

    def _drop_flock(self, turn: Turn, contender: Contender) -> None:
        attempt = str(contender.attempt)
        life = self._lives.pop((turn.record.stem, attempt), None)
        if life is not None:
            life.close()
        turn.record.remove_flocks([attempt])


def _lost_error(lease: Lease) -> LockLostError:
    return LockLostError(
        f"lock {lease.name}: token {lease.token} was taken from this run; it stopped itself",
        lock=lease.name,
        token=lease.token,
        hint="see the history of its store for who took it, and why",
    )

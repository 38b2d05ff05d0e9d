"""A turn at one lock of a file store: nobody else changes it meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from airflow_provider_safecopy.lock.file_record import FileRecord
from airflow_provider_safecopy.lock.file_state import LockState
from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Event

log = logging.getLogger(__name__)

Clock = Callable[[], float]


def read_boot_clock() -> float:
    """Seconds since boot, suspended or not: nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def to_wall_time(instant: float) -> datetime:
    """The wall's time of an instant, for people: now, less how long ago that was."""
    return datetime.now(UTC) + timedelta(seconds=instant - read_boot_clock())


def read_state(record: FileRecord, boot: str | None, now: float) -> LockState | None:
    """The lock's state on the clock of this boot."""
    state = record.read_state()
    return None if state is None else state.rebase(boot, now=now, wall=to_wall_time(now).timestamp())


@dataclass(frozen=True)
class Turn:
    """The lock's files and its state, now."""

    record: FileRecord
    state: LockState
    now: float

    @classmethod
    @contextmanager
    def begin(cls, record: FileRecord, name: str, boot: str | None, clock: Clock) -> Iterator[Turn]:
        """Wait for it. Raises OSError, `LockStoreError`."""
        with record.hold_guard():
            now = clock()
            yield cls(record, read_state(record, boot, now) or LockState(name, boot=boot), now)

    def write(self, state: LockState) -> None:
        """Let that be the lock's state."""
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
        """Add to the history. What has happened is not undone because that fails."""
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

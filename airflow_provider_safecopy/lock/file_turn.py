"""A turn at one lock of a file store: nobody else changes it meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from airflow_provider_safecopy.lock.file_record import FileRecord
from airflow_provider_safecopy.lock.file_state import State
from airflow_provider_safecopy.lock.model import Contender, Displaced, Event

log = logging.getLogger(__name__)

Clock = Callable[[], float]


def boottime() -> float:
    """Seconds since boot, suspended or not: nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def told(instant: float) -> datetime:
    """The wall's time of an instant, for people: now, less how long ago that was."""
    return datetime.now(UTC) + timedelta(seconds=instant - boottime())


def state_of(record: FileRecord, boot: str | None, now: float) -> State | None:
    """The lock's state on the clock of this boot."""
    state = record.state()
    return None if state is None else state.rebased(boot, now=now, wall=told(now).timestamp())


@dataclass(frozen=True)
class Turn:
    """The lock's files and its state, now."""

    record: FileRecord
    state: State
    now: float

    @classmethod
    @contextmanager
    def at(cls, record: FileRecord, name: str, boot: str | None, clock: Clock) -> Iterator[Turn]:
        """Wait for it. Raises OSError, `LockStoreError`."""
        with record.guarded():
            now = clock()
            yield cls(record, state_of(record, boot, now) or State(name, boot=boot), now)

    def write(self, state: State) -> None:
        """Let that be the lock's state."""
        self.record.write(replace(state, written_at=self.now, written_wall=told(self.now).timestamp()))

    def tell(
        self,
        kind: str,
        token: int,
        contender: Contender | None = None,
        *,
        former: Displaced | None = None,
        reason: str | None = None,
    ) -> None:
        """Add to the history. What has happened is not undone because that fails."""
        event = Event(
            at=told(self.now),
            name=self.state.name,
            token=token,
            kind=kind,
            owner_key=contender.owner_key if contender else None,
            owner=dict(contender.owner) if contender else {},
            member=contender.member if contender else None,
            attempt=str(contender.attempt) if contender else None,
            prev_owner_key=former.owner_key if former else None,
            detail=({"reason": reason} if reason else {}) | ({"from": dict(former.owner)} if former else {}),
        )
        try:
            self.record.history.add(event)
        except OSError as error:
            log.warning("lock %s: its history could not be written: %s", event.name, error)

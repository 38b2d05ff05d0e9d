"""Sequences: columns that were copied draw their next value beyond all that is there now, by identity, serial or default.

Never back, and only where it is needed. Where this role owns the sequence that is part of the publish: a rollback
undoes it, and no session draws between the look and the move. Where it may only set it, or another session keeps the sequence
busy, it is set at once, which no rollback undoes; as drawing does, a publish that fails may then leave a gap.

Not promised: values that other sessions have cached (CACHE) by then, where the sequence could only be set; sequences
that a column's values are made of in an expression, as ``'A' || nextval('s')``: a warning names those.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.transfer import upkeep

log = logging.getLogger(__name__)

_SEQUENCE = sql.load("sequence")
_CATALOG = sql.load("catalog")
_TRIES = 5
# Another session keeps it busy, it is not ours, or the database refuses ALTER by an event trigger.
_CANNOT_ALTER = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.RaiseException,
)

SequenceState = tuple[int, bool]
"""`last_value`, and whether it has been drawn already (`is_called`)."""
Peaks = Mapping[tuple[str, bool], Decimal | None]
"""Of a column, and whether upward: the value farthest that way."""


@dataclass(frozen=True)
class Sequence:
    """A sequence and the column that draws from it. `expression` is its default if the values are only made of it."""

    column_name: str
    name: TableName
    increment: int
    lowest: int
    highest: int
    cycles: bool
    may_alter: bool
    may_read: bool
    may_set: bool
    expression: str | None = None

    @property
    def is_ascending(self) -> bool:
        """True if its values grow."""
        return self.increment > 0

    @property
    def limit(self) -> int:
        """The last value it has."""
        return self.highest if self.is_ascending else self.lowest

    def find_value_beyond(self, peak: int, state: SequenceState) -> SequenceState | None:
        """Where it must be moved for its next value to lie beyond `peak`; None where it already does.

        Its steps are kept: one that gives odd numbers goes on to do so. Without a value beyond, it is at its end.
        """
        way, (last, called) = (1 if self.is_ascending else -1), state
        upcoming = last + self.increment if called else last
        if (gap := (peak - upcoming) * way) < 0:
            return None
        wanted = upcoming + (gap // abs(self.increment) + 1) * self.increment
        if (self.limit - wanted) * way >= 0:
            return wanted, False
        return None if self.cycles or state == (self.limit, True) else (self.limit, True)

    def is_exhausted(self, peak: int) -> bool:
        """Return whether none of its values lies beyond `peak`."""
        return peak >= self.limit if self.is_ascending else peak <= self.limit


def read_peaks(job: PublishContext, table: TableName) -> Peaks:
    """Return the greatest value in each copied column of `table` whose sequence the target has. For a strategy without time later."""
    return {
        (each.column_name, each.is_ascending): _read_peak(job, table, each)
        for each in _drawn(job)
        if not each.expression
    }


def advance_sequences(job: PublishContext, known_peaks: Peaks | None = None) -> list[str]:
    """Move what must be moved, in the publishing transaction and as its last step. Returns what is to be told.

    `known_peaks` is what `read_peaks` gave beforehand.
    """
    job.connection.execute(_SEQUENCE["own_names"])
    found = []
    for sequence in _drawn(job):
        if sequence.expression:
            found.append(_derived(sequence))
            continue
        key = (sequence.column_name, sequence.is_ascending)
        peak = (
            known_peaks[key] if known_peaks and key in known_peaks else _read_peak(job, job.plan.target_name, sequence)
        )
        if peak is not None and (warning := _advance_sequence(job, sequence, peak)):
            found.append(warning)
    # Triggers that were put off until COMMIT see what the others saw.
    job.connection.execute(_CATALOG["as_the_role"])
    return found


def _drawn(job: PublishContext) -> list[Sequence]:
    name, path = job.plan.target_name, list(job.target.search_path)
    asked = {"schema": name.schema, "name": name.name, "columns": list(job.plan.target_columns), "path": path}
    rows = job.target.fetch_all(_SEQUENCE["drawn"], asked)
    return [Sequence(name=TableName(row.pop("schema"), row.pop("name")), **row) for row in rows]


def _read_peak(job: PublishContext, table: TableName, sequence: Sequence) -> Decimal | None:
    peak: Decimal | None = job.target.fetch_value(
        upkeep.peak(table, sequence.column_name, highest=sequence.is_ascending)
    )
    return peak if peak is None or peak.is_finite() else None


def _advance_sequence(job: PublishContext, sequence: Sequence, peak: Decimal) -> str | None:
    whole = math.floor(peak) if sequence.is_ascending else math.ceil(peak)
    if not sequence.may_read:
        return _describe_missing_rights(job, sequence, whole, "SELECT, UPDATE")
    if sequence.find_value_beyond(whole, _read_state(job, sequence)) is not None:
        moved = (sequence.may_alter and _alter_sequence(job, sequence, whole)) or (
            sequence.may_set and _set_sequence(job, sequence, whole)
        )
        if not moved:
            return _describe_missing_rights(job, sequence, whole, "UPDATE")
    if sequence.is_exhausted(whole):
        return (
            f"sequence {sequence.name}: column {spell(sequence.column_name)} holds {whole}, and the sequence ends at "
            f"{sequence.limit}: {'it begins again' if sequence.cycles else 'drawing from it fails'}"
        )
    return None


def _alter_sequence(job: PublishContext, sequence: Sequence, peak: int) -> bool:
    """Move the sequence as a part of the transaction; return whether it was moved."""
    try:
        with job.connection.transaction():
            job.connection.execute(statements.set_timeout("lock_timeout", job.lock_step))
            with job.target.limit_lock_wait(job.lock_step):
                job.connection.execute(upkeep.hold_sequence(sequence.name, sequence.increment))
            if (wanted := sequence.find_value_beyond(peak, _read_state(job, sequence))) is not None:
                value, called = wanted
                job.connection.execute(upkeep.restart_sequence(sequence.name, value))
                # Transactional here: the sequence is a new one until COMMIT.
                if called:
                    job.connection.execute(upkeep.set_sequence(sequence.name, (value, False), value, called=True))
    except _CANNOT_ALTER as error:
        log.info("sequence %s is set, not altered: %s", sequence.name, error)
        return False
    return True


def _set_sequence(job: PublishContext, sequence: Sequence, peak: int) -> bool:
    """Move the sequence at once, and again where another session has drawn from it meanwhile; return whether it was moved."""
    for _ in range(_TRIES):
        seen = _read_state(job, sequence)
        if (wanted := sequence.find_value_beyond(peak, seen)) is None:
            return True
        value, called = wanted
        if job.target.fetch_one(upkeep.set_sequence(sequence.name, seen, value, called=called)) is not None:
            return True
    return False


def _read_state(job: PublishContext, sequence: Sequence) -> SequenceState:
    row = job.target.fetch_one(upkeep.sequence_state(sequence.name))
    assert row is not None  # noqa: S101 -- a sequence is a table of one row
    return row["last_value"], row["is_called"]


def _derived(sequence: Sequence) -> str:
    return (
        f"sequence {sequence.name}: it was not moved; column {spell(sequence.column_name)} has values made of it "
        f"({sequence.expression}), and those that were copied may come again: see that it lies beyond them"
    )


def _describe_missing_rights(job: PublishContext, sequence: Sequence, peak: int, rights: str) -> str:
    return (
        f"sequence {sequence.name}: its next value must lie beyond {peak}, which column {spell(sequence.column_name)} "
        f"holds, and role {job.target.server.role} may not see to it; grant it {rights} on the sequence, or run: "
        f"{upkeep.move_by_hand(sequence.name, peak)}"
    )

"""Sequences: identity and serial columns that were copied draw their next value beyond all that is there now.

Never back, and only where it is needed. Where this role owns the sequence that is part of the publish: a rollback
undoes it, and nobody draws between the look and the move. Where it may only set it, or somebody else keeps the sequence
busy, it is set at once, which no rollback undoes; as drawing does, a publish that fails may then leave a gap.

Not promised: values that other sessions have cached (CACHE) by then, where the sequence could only be set; sequences
that a column draws from and does not own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer import statements
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.statements import upkeep

log = logging.getLogger(__name__)

_SEQUENCE = sql.load("sequence")
_CATALOG = sql.load("catalog")
_TRIES = 5
# Somebody keeps it busy, it is not ours, or the database refuses ALTER by an event trigger.
_CANNOT_ALTER = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.RaiseException,
)

State = tuple[int, bool]
"""`last_value`, and whether it has been drawn already (`is_called`)."""
Peaks = Mapping[tuple[str, bool], Decimal | None]
"""Of a column, and whether upward: the value farthest that way."""


@dataclass(frozen=True)
class Sequence:
    """A sequence and the column that owns it."""

    column_name: str
    name: TableName
    increment: int
    lowest: int
    highest: int
    cycles: bool
    may_alter: bool
    may_read: bool
    may_set: bool

    @property
    def upward(self) -> bool:
        """Whether its values grow."""
        return self.increment > 0

    @property
    def end(self) -> int:
        """The last value it has."""
        return self.highest if self.upward else self.lowest

    def beyond(self, peak: int, state: State) -> State | None:
        """Where it must be moved for its next value to lie beyond `peak`; None where it already does.

        Its steps are kept: one that gives odd numbers goes on to do so. Without a value beyond, it is at its end.
        """
        way, (last, called) = (1 if self.upward else -1), state
        upcoming = last + self.increment if called else last
        if (gap := (peak - upcoming) * way) < 0:
            return None
        wanted = upcoming + (gap // abs(self.increment) + 1) * self.increment
        if (self.end - wanted) * way >= 0:
            return wanted, False
        return None if self.cycles or state == (self.end, True) else (self.end, True)

    def exhausted(self, peak: int) -> bool:
        """Whether none of its values lies beyond `peak`."""
        return peak >= self.end if self.upward else peak <= self.end


def peaks(job: Job, table: TableName) -> Peaks:
    """What a copied column of `table` holds, of those whose sequences the target has. For a way that has no time later."""
    return {(each.column_name, each.upward): _peak(job, table, each) for each in _owned(job)}


def advance(job: Job, known: Peaks | None = None) -> list[str]:
    """Move what must be moved, in the publishing transaction and as its last step. Returns what is to be told.

    `known` is what `peaks` gave beforehand.
    """
    job.connection.execute(_SEQUENCE["own_names"])
    found = []
    for sequence in _owned(job):
        key = (sequence.column_name, sequence.upward)
        peak = known[key] if known and key in known else _peak(job, job.plan.target_name, sequence)
        if peak is not None and (warning := _advance(job, sequence, peak)):
            found.append(warning)
    # Triggers that were put off until COMMIT see what the others saw.
    job.connection.execute(_CATALOG["as_the_role"])
    return found


def _owned(job: Job) -> list[Sequence]:
    name = job.plan.target_name
    asked = {"schema": name.schema, "name": name.name, "columns": list(job.plan.target_columns)}
    rows = job.target.all(_SEQUENCE["owned"], asked)
    return [Sequence(name=TableName(row.pop("schema"), row.pop("name")), **row) for row in rows]


def _peak(job: Job, table: TableName, sequence: Sequence) -> Decimal | None:
    peak: Decimal | None = job.target.value(upkeep.peak(table, sequence.column_name, highest=sequence.upward))
    return peak if peak is None or peak.is_finite() else None


def _advance(job: Job, sequence: Sequence, peak: Decimal) -> str | None:
    whole = math.floor(peak) if sequence.upward else math.ceil(peak)
    if not sequence.may_read:
        return _lacking(job, sequence, whole, "SELECT, UPDATE")
    if sequence.beyond(whole, _state(job, sequence)) is not None:
        moved = (sequence.may_alter and _altered(job, sequence, whole)) or (
            sequence.may_set and _set(job, sequence, whole)
        )
        if not moved:
            return _lacking(job, sequence, whole, "UPDATE")
    if sequence.exhausted(whole):
        return (
            f"sequence {sequence.name}: column {spell(sequence.column_name)} holds {whole}, and the sequence ends at "
            f"{sequence.end}: {'it begins again' if sequence.cycles else 'drawing from it fails'}"
        )
    return None


def _altered(job: Job, sequence: Sequence, peak: int) -> bool:
    """Whether it was moved as a part of the transaction."""
    try:
        with job.connection.transaction():
            job.connection.execute(statements.set_timeout("lock_timeout", job.lock_step))
            with job.target.waiting(job.lock_step):
                job.connection.execute(upkeep.hold_sequence(sequence.name, sequence.increment))
            if (wanted := sequence.beyond(peak, _state(job, sequence))) is not None:
                value, called = wanted
                job.connection.execute(upkeep.restart_sequence(sequence.name, value))
                if called:  # transactional here: the sequence is a new one until COMMIT
                    job.connection.execute(upkeep.set_sequence(sequence.name, (value, False), value, called=True))
    except _CANNOT_ALTER as error:
        log.info("sequence %s is set, not altered: %s", sequence.name, error)
        return False
    return True


def _set(job: Job, sequence: Sequence, peak: int) -> bool:
    """Whether it was moved, at once; again where somebody has drawn from it meanwhile."""
    for _ in range(_TRIES):
        seen = _state(job, sequence)
        if (wanted := sequence.beyond(peak, seen)) is None:
            return True
        value, called = wanted
        if job.target.one(upkeep.set_sequence(sequence.name, seen, value, called=called)) is not None:
            return True
    return False


def _state(job: Job, sequence: Sequence) -> State:
    row = job.target.one(upkeep.sequence_state(sequence.name))
    assert row is not None  # noqa: S101 -- a sequence is a table of one row
    return row["last_value"], row["is_called"]


def _lacking(job: Job, sequence: Sequence, peak: int, rights: str) -> str:
    return (
        f"sequence {sequence.name}: its next value must lie beyond {peak}, which column {spell(sequence.column_name)} "
        f"holds, and role {job.target.server.role} may not see to it; grant it {rights} on the sequence, or run: "
        f"{upkeep.move_by_hand(sequence.name, peak)}"
    )

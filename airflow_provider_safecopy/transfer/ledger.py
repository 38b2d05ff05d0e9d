"""The ledger: what the target's schema `safecopy` knows of earlier publishes, and what a copy makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import slice as slices
from airflow_provider_safecopy.transfer import statements
from airflow_provider_safecopy.transfer.bounds import Bounds, Lookbacks, bounds_of, is_value, zone_warnings
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.cursor import Cursor, cursor_of
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.origin import Identity, Origin
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.slice import Appended, VanishedSlice
from airflow_provider_safecopy.transfer.spec import CopySpec

_WATERMARK = sql.load("watermark")


@dataclass(frozen=True)
class Stored:
    """A watermark as the ledger has it. `stale` says why it does not count any more; None where it does; `empty`, whether the target is."""

    value: str
    stale: str | None = None
    empty: bool = False


@dataclass(frozen=True)
class Ledger:
    """What one copy finds in the ledger, and will enter. Made anew with each plan; the last one under the lock.

    `told` is the origin as the target can spell it, `basis` what its name stands for now. `appended`: the slice is there
    already; `follows`: the receipt of it whose rows are gone, 0 where there is none; `was_empty`: the target was found
    without rows. `slice` of an incremental copy is the interval, where nothing else was asked for.
    """

    origin: Origin
    told: str
    basis: str
    slice: str | None = None
    appended: Appended | None = None
    follows: int = 0
    was_empty: bool = False
    stored: Stored | None = None
    bounds: Bounds | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def mark(self) -> str | None:
        """The watermark that counts."""
        return self.stored.value if self.stored and not self.stored.stale else None

    def reads_like(self, other: Ledger, cursor: Cursor) -> bool:
        """Return whether the source would compute the bounds of this for `other` with this `cursor`."""
        return self.bounds is not None and (self.bounds.cursor, self.stored) == (cursor, other.stored)

    def lookbacks(self, lookback: str | None) -> Lookbacks:
        """Return the `lookback` of this copy if the source has counted it back from nothing, for the plans that follow."""
        if self.bounds is None or self.mark is not None or lookback is None:
            return frozenset()
        return frozenset({(self.bounds.cursor.kind.type, lookback)})

    def entry(self, new: str | None) -> dict[str, Any] | None:
        """Of an incremental copy: what was read, and where the watermark is afterwards."""
        if self.bounds is None:
            return None
        bounds = self.bounds
        limits = {"start": bounds.start, "end": bounds.end}
        return {"cursor_column": bounds.cursor.column, "old": self.mark, "new": new, **limits}


@dataclass(frozen=True)
class Known:
    """What was known of a copy before the ledger is asked: its identity, and what the ledger made of it a moment ago.

    `lookbacks` are those that other plans have found to be good.
    `blocked`: the copy is refused already, and its identity alone is of use.
    """

    identity: Finding[Identity]
    readable: bool | None = None
    earlier: Ledger | None = None
    blocked: bool = False
    lookbacks: Lookbacks = frozenset()


def look_up(
    spec: CopySpec,
    sessions: tuple[Session, Session],
    taken: Relation | None,
    pairs: Sequence[tuple[Column, Column]],
    known: Known,
) -> Finding[Ledger]:
    """Return what the ledger says of the copy that is `known`. Reads only. `taken`: the target, if there is one yet."""
    source, target = sessions
    identity = known.identity.value
    ledger = Ledger(identity.origin, identity.told, identity.basis, spec.append_key)
    if known.identity.refusals or known.blocked:
        return Finding(ledger, known.identity.refusals)
    if spec.write_mode == "append" and spec.append_key is not None:
        return _add_slice(ledger, spec, target, taken) if _kept(target, known) else Finding(ledger)
    if spec.cursor_column is None:
        return Finding(ledger)
    cursor = cursor_of(spec.cursor_column, pairs)
    if cursor.value is None:
        return Finding(ledger, cursor.refusals)
    if taken is not None and _kept(target, known):
        stored = _stored(target, taken, ledger, cursor.value)
        ledger = replace(ledger, stored=stored, was_empty=bool(stored and stored.empty))
    return _bounded(ledger, spec, source, cursor.value, taken=taken, known=known)


def is_readable(target: Session) -> bool:
    """Ask whether the ledger is there, and this role may read it."""
    return bool(target.value(_WATERMARK["readable"]))


def _kept(target: Session, known: Known) -> bool:
    return is_readable(target) if known.readable is None else known.readable


def _add_slice(ledger: Ledger, spec: CopySpec, target: Session, taken: Relation | None) -> Finding[Ledger]:
    """Return the ledger with what it knows of the slice."""
    table = (taken and taken.name) or spec.target_table
    oid, kin = (taken.oid, taken.kin) if taken else (0, ())
    found = slices.find(target, table, oid, str(spec.append_key), ledger.origin, kin=kin)
    if isinstance(found, Refusal):
        return Finding(ledger, (found,))
    if isinstance(found, VanishedSlice):
        reason = f"slice {spec.append_key} is appended once more: its rows are gone: {found.why}"
        again = replace(ledger, follows=found.receipt, was_empty=found.empty, reasons=(reason,))
        return Finding(again, reasons=again.reasons)
    return Finding(ledger if found is None else replace(ledger, appended=found))


def _stored(target: Session, taken: Relation, ledger: Ledger, cursor: Cursor) -> Stored | None:
    kin = [str(each) for each in taken.kin]
    asked = {"target": str(taken.name), "origin": ledger.origin.digest, "oid": taken.oid, "kin": kin}
    row = target.one(_WATERMARK["of_origin"], asked)
    if row is None:
        return None
    stale = None
    if row["type"] != cursor.kind.type:
        stale = f"the cursor was {row['type']} then"
    elif row["basis"] != ledger.basis:
        stale = "the source has been made anew since"
    elif not row["same_target"]:
        stale = f"{taken.label} has been made anew since"
    elif row["overwritten"]:
        stale = f"a copy into a partition or parent of {taken.label} has replaced or deleted rows since"
    elif row["changed"]:
        stale = f"a copy has replaced {taken.label} since, deleted rows of it, or found it empty"
    elif row["moved"]:
        stale = f"{taken.label} has been truncated or rewritten since"
    empty = taken.name is not None and _is_empty(target, taken.name)
    return Stored(row["value"], f"{taken.label} is empty" if empty else stale, empty=empty)


def _is_empty(target: Session, table: TableName) -> bool:
    with target.reading():
        return not target.value(statements.any_row(statements.select((), table, None)))


def _of_watermark(source: Session, taken: Relation | None, ledger: Ledger, cursor: Cursor) -> list[Refusal]:
    """Only a hand can have put there what is no value of the cursor's: what it means is for a person to say."""
    if ledger.mark is None or taken is None or is_value(source, cursor, ledger.mark):
        return []
    row = f"the row of safecopy.watermark whose target is {taken.name} and whose origin is {ledger.origin.digest}"
    return [
        Refusal(
            "bad_watermark",
            f"the watermark {ledger.mark:.80} is no value of {spell(cursor.column)}, {cursor.kind.type}",
            table=str(taken.name),
            column=spell(cursor.column),
            hint=f"put the right value into {row}, or delete that row: the next run then reads everything once more",
        )
    ]


def _bounded(
    ledger: Ledger, spec: CopySpec, source: Session, cursor: Cursor, *, taken: Relation | None, known: Known
) -> Finding[Ledger]:
    """Return the ledger with what is to be read; an earlier one knows it where the source would compute the same."""
    if (former := known.earlier) is not None and former.reads_like(ledger, cursor):
        again = replace(ledger, bounds=former.bounds, slice=former.slice, reasons=former.reasons)
        return Finding(replace(again, warnings=former.warnings), reasons=former.reasons, warnings=former.warnings)
    if refused := _of_watermark(source, taken, ledger, cursor):
        return Finding(ledger, tuple(refused))
    found = bounds_of(spec, source, cursor, ledger.mark, known.lookbacks)
    bounds, why = found.value, "".join(found.reasons)
    if ledger.stored and ledger.stored.stale:
        why += f"; {ledger.stored.value} does not count: {ledger.stored.stale}"
    asked = spec.interval_start is not None
    name = spec.append_key or (f"{bounds.start}/{bounds.end}" if asked else None)
    told, warnings = (f"incremental {bounds}: {why}",), zone_warnings(spec, cursor)
    bounded = replace(ledger, bounds=bounds, slice=name, reasons=told, warnings=warnings)
    return Finding(bounded, found.refusals, told, warnings)

"""The ledger: what the target's schema `safecopy` knows of earlier publishes, and what a copy makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import catalog, statements
from airflow_provider_safecopy.transfer import slice as slices
from airflow_provider_safecopy.transfer.bounds import Bounds, bounds_of, is_value, zone_warnings
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.cursor import Cursor, cursor_of
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.origin import Origin, System, origin_of, read_basis, read_system
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

    def entry(self, new: str | None) -> dict[str, Any] | None:
        """Of an incremental copy: what was read, and where the watermark is afterwards."""
        if self.bounds is None:
            return None
        bounds = self.bounds
        limits = {"start": bounds.start, "end": bounds.end}
        return {"cursor_column": bounds.cursor.column, "old": self.mark, "new": new, **limits}


@dataclass(frozen=True)
class Known:
    """What need not be asked any more: who the source is, and what a moment ago the ledger made of this copy."""

    system: System | None = None
    basis: str | None = None
    readable: bool | None = None
    earlier: Ledger | None = None


def identify(
    spec: CopySpec,
    sessions: tuple[Session, Session],
    given: Relation,
    pairs: Sequence[tuple[Column, Column]],
    known: Known,
) -> Finding[Ledger]:
    """Return the ledger with what is read, and whether the target can spell the slice. `sessions`: source and target."""
    source, target = sessions
    origin = origin_of(spec, source, known.system or read_system(source), given, pairs)
    ledger = Ledger(origin, _spellable(target, origin.label), known.basis or read_basis(source, given), spec.slice)
    return Finding(ledger, () if spec.slice is None else tuple(_of_slice(target, spec.slice)))


def look_up(
    ledger: Ledger,
    spec: CopySpec,
    sessions: tuple[Session, Session],
    written: tuple[Relation | None, Sequence[tuple[Column, Column]]],
    known: Known,
) -> Finding[Ledger]:
    """Return the ledger with what it says of a copy. Reads only. `written`: the target, if there is one, and the pairs."""
    taken, pairs = written
    if spec.write_mode == "append" and spec.slice is not None:
        return _add_slice(ledger, spec, sessions[1], taken) if _kept(sessions[1], known) else Finding(ledger)
    if spec.cursor_column is None:
        return Finding(ledger)
    cursor = cursor_of(spec.cursor_column, pairs)
    if cursor.value is None:
        return Finding(ledger, cursor.refusals)
    if taken is not None and _kept(sessions[1], known):
        stored = _stored(sessions[1], taken, ledger, cursor.value)
        ledger = replace(ledger, stored=stored, was_empty=bool(stored and stored.empty))
    if (former := known.earlier) is not None and former.reads_like(ledger, cursor.value):
        again = replace(ledger, bounds=former.bounds, slice=former.slice)
        return _told(replace(again, reasons=former.reasons, warnings=former.warnings))
    if refused := _of_watermark(sessions[0], taken, ledger, cursor.value):
        return Finding(ledger, tuple(refused))
    return _bounded(ledger, spec, sessions[0], cursor.value)


def is_readable(target: Session) -> bool:
    """Ask whether the ledger is there, and this role may read it."""
    return bool(target.value(_WATERMARK["readable"]))


def _kept(target: Session, known: Known) -> bool:
    return is_readable(target) if known.readable is None else known.readable


def _told(ledger: Ledger, refusals: tuple[Refusal, ...] = ()) -> Finding[Ledger]:
    return Finding(ledger, refusals, ledger.reasons, ledger.warnings)


def _add_slice(ledger: Ledger, spec: CopySpec, target: Session, taken: Relation | None) -> Finding[Ledger]:
    """Return the ledger with what it knows of the slice."""
    table = (taken and taken.name) or spec.target_table
    oid, kin = (taken.oid, taken.kin) if taken else (0, ())
    found = slices.find(target, table, oid, str(spec.slice), ledger.origin, kin=kin)
    if isinstance(found, Refusal):
        return Finding(ledger, (found,))
    if isinstance(found, VanishedSlice):
        reason = f"slice {spec.slice} is appended once more: its rows are gone: {found.why}"
        return _told(replace(ledger, follows=found.receipt, was_empty=found.empty, reasons=(reason,)))
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


def _bounded(ledger: Ledger, spec: CopySpec, source: Session, cursor: Cursor) -> Finding[Ledger]:
    found = bounds_of(spec, source, cursor, ledger.mark)
    bounds, why = found.value, "".join(found.reasons)
    if ledger.stored and ledger.stored.stale:
        why += f"; {ledger.stored.value} does not count: {ledger.stored.stale}"
    asked = spec.interval_start is not None
    name = spec.slice or (f"{bounds.start}/{bounds.end}" if asked else None)
    told = (f"incremental {bounds}: {why}",)
    warnings = zone_warnings(spec, cursor)
    return _told(replace(ledger, bounds=bounds, slice=name, reasons=told, warnings=warnings), found.refusals)


def _of_slice(target: Session, name: str) -> list[Refusal]:
    if catalog.bytes_of(target, name) is not None:
        return []
    where = f"{target.server.encoding}, the encoding of {target.endpoint}"
    hint = "name the slice in letters the target has"
    return [Refusal("name_not_in_encoding", f"slice {name}: it cannot be spelled in {where}", hint=hint)]


def _spellable(target: Session, told: str) -> str:
    """As it stands, or escaped where the target's encoding lacks a letter of it."""
    return told if catalog.bytes_of(target, told) is not None else ascii(told)

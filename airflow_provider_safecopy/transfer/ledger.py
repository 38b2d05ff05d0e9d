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
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.origin import Origin, basis_of, origin_of
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

    def entry(self, new: str | None) -> dict[str, Any] | None:
        """Of an incremental copy: what was read, and where the watermark is afterwards."""
        if self.bounds is None:
            return None
        bounds = self.bounds
        limits = {"start": bounds.start, "end": bounds.end}
        return {"cursor_column": bounds.cursor.column, "old": self.mark, "new": new, **limits}


def look_up(
    spec: CopySpec,
    sessions: tuple[Session, Session],
    relations: tuple[Relation, Relation | None],
    pairs: Sequence[tuple[Column, Column]],
    refusals: list[Refusal],
) -> Ledger:
    """What the ledger says of this copy. Reads only. `sessions` and `relations` are source and target, which may be still to be made."""
    (source, target), (given, taken) = sessions, relations
    origin = origin_of(spec, source, given, pairs)
    ledger = Ledger(origin, _spellable(target, origin.label), basis_of(source, given), spec.append_key)
    if spec.append_key is not None:
        refusals += _of_slice(target, spec.append_key)
    if refusals:
        return ledger
    kept = bool(target.value(_WATERMARK["readable"]))
    if spec.write_mode == "append" and spec.append_key is not None and kept:
        return _add_slice(ledger, spec, target, taken, refusals)
    if spec.cursor_column is not None and (cursor := cursor_of(spec.cursor_column, pairs, refusals)):
        if kept and taken is not None:
            stored = _stored(target, taken, ledger, cursor)
            ledger = replace(ledger, stored=stored, was_empty=bool(stored and stored.empty))
        if refused := _of_watermark(source, taken, ledger, cursor):
            refusals += refused
            return ledger
        return _bounded(ledger, spec, source, cursor, refusals)
    return ledger


def _add_slice(
    ledger: Ledger, spec: CopySpec, target: Session, taken: Relation | None, refusals: list[Refusal]
) -> Ledger:
    """Return the ledger with what it knows of the slice."""
    table = (taken and taken.name) or spec.target_table
    oid, kin = (taken.oid, taken.kin) if taken else (0, ())
    found = slices.find(target, table, oid, str(spec.append_key), ledger.origin, kin=kin)
    if isinstance(found, Refusal):
        refusals.append(found)
    elif isinstance(found, VanishedSlice):
        reason = f"slice {spec.append_key} is appended once more: its rows are gone: {found.why}"
        return replace(ledger, follows=found.receipt, was_empty=found.empty, reasons=(reason,))
    elif found is not None:
        return replace(ledger, appended=found)
    return ledger


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


def _bounded(ledger: Ledger, spec: CopySpec, source: Session, cursor: Cursor, refusals: list[Refusal]) -> Ledger:
    bounds, why = bounds_of(spec, source, cursor, ledger.mark, refusals)
    if ledger.stored and ledger.stored.stale:
        why += f"; {ledger.stored.value} does not count: {ledger.stored.stale}"
    asked = spec.interval_start is not None
    name = spec.append_key or (f"{bounds.start}/{bounds.end}" if asked else None)
    told = (f"incremental {bounds}: {why}",)
    return replace(ledger, bounds=bounds, slice=name, reasons=told, warnings=zone_warnings(spec, cursor))


def _of_slice(target: Session, name: str) -> list[Refusal]:
    if catalog.bytes_of(target, name) is not None:
        return []
    where = f"{target.server.encoding}, the encoding of {target.endpoint}"
    hint = "spell append_key in letters the target has"
    return [Refusal("name_not_in_encoding", f"slice {name}: it cannot be spelled in {where}", hint=hint)]


def _spellable(target: Session, told: str) -> str:
    """As it stands, or escaped where the target's encoding lacks a letter of it."""
    return told if catalog.bytes_of(target, told) is not None else ascii(told)

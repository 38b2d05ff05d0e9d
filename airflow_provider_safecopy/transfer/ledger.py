"""The ledger: what the target's schema `safecopy` knows of earlier publishes, and what a copy makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import slice as slices
from airflow_provider_safecopy.transfer import statements
from airflow_provider_safecopy.transfer.bounds import Lookbacks, ReadRange, bounds_of, is_value, zone_warnings
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.cursor import Cursor, cursor_of
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.origin import CopyIdentity, SourceIdentity
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.slice import AppendRecord, VanishedAppend
from airflow_provider_safecopy.transfer.spec import CopySpec

_WATERMARK = sql.load("watermark")


@dataclass(frozen=True)
class StoredWatermark:
    """A watermark as the ledger has it. `stale_reason` says why it does not count any more; None where it does; `is_empty`, whether the target is."""

    value: str
    stale_reason: str | None = None
    is_empty: bool = False


@dataclass(frozen=True)
class CopyHistory:
    """What one copy finds in the ledger, and will enter. Made anew with each plan; the last one under the lock.

    `source_label` is the origin as the target can spell it, `basis` what its name stands for now. `earlier_append`: the slice is there
    already; `previous_receipt`: the receipt of it whose rows are gone, 0 where there is none; `was_empty`: the target was found
    without rows. `append_key` of an incremental copy is the interval, where nothing else was asked for.
    """

    source_identity: SourceIdentity
    source_label: str
    basis: str
    append_key: str | None = None
    earlier_append: AppendRecord | None = None
    previous_receipt: int = 0
    was_empty: bool = False
    stored_watermark: StoredWatermark | None = None
    read_range: ReadRange | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def watermark(self) -> str | None:
        """The watermark that counts."""
        return self.stored_watermark.value if self.stored_watermark and not self.stored_watermark.stale_reason else None

    def has_same_range(self, history: CopyHistory, cursor: Cursor) -> bool:
        """Return whether the source would compute the bounds of this for `history` with this `cursor`."""
        return self.read_range is not None and (self.read_range.cursor, self.stored_watermark) == (
            cursor,
            history.stored_watermark,
        )

    def list_checked_lookbacks(self, lookback: str | None) -> Lookbacks:
        """Return the `lookback` of this copy if the source has counted it back from nothing, for the plans that follow."""
        if self.read_range is None or self.watermark is not None or lookback is None:
            return frozenset()
        return frozenset({(self.read_range.cursor.kind.type, lookback)})

    def build_watermark_entry(self, new: str | None) -> dict[str, Any] | None:
        """Of an incremental copy: what was read, and where the watermark is afterwards."""
        if self.read_range is None:
            return None
        bounds = self.read_range
        limits = {"start": bounds.start, "end": bounds.end}
        return {"cursor_column": bounds.cursor.column, "old": self.watermark, "new": new, **limits}


@dataclass(frozen=True)
class HistoryInput:
    """What was known of a copy before the ledger is asked: its identity, and what the ledger made of it a moment ago.

    `list_checked_lookbacks` are those that other plans have found to be good.
    `is_refused`: the copy is refused already, and its identity alone is of use.
    """

    identity: Finding[CopyIdentity]
    is_readable: bool | None = None
    earlier_history: CopyHistory | None = None
    is_refused: bool = False
    lookbacks: Lookbacks = frozenset()


def read_copy_history(
    spec: CopySpec,
    sessions: tuple[Session, Session],
    target_relation: Relation | None,
    pairs: Sequence[tuple[Column, Column]],
    known: HistoryInput,
) -> Finding[CopyHistory]:
    """Return what the ledger says of the copy that is `known`. Reads only. `target_relation`: the target, if there is one yet."""
    source, target = sessions
    identity = known.identity.value
    ledger = CopyHistory(identity.source_identity, identity.source_label, identity.basis, spec.append_key)
    if known.identity.refusals or known.is_refused:
        return Finding(ledger, known.identity.refusals)
    if spec.write_mode == "append" and spec.append_key is not None:
        return _add_append(ledger, spec, target, target_relation) if _can_read(target, known) else Finding(ledger)
    if spec.cursor_column is None:
        return Finding(ledger)
    cursor = cursor_of(spec.cursor_column, pairs)
    if cursor.value is None:
        return Finding(ledger, cursor.refusals)
    if target_relation is not None and _can_read(target, known):
        stored = _read_watermark(target, target_relation, ledger, cursor.value)
        ledger = replace(ledger, stored_watermark=stored, was_empty=bool(stored and stored.is_empty))
    return _add_read_range(ledger, spec, source, cursor.value, target_relation=target_relation, known=known)


def is_readable(target: Session) -> bool:
    """Ask whether the ledger is there, and this role may read it."""
    return bool(target.fetch_value(_WATERMARK["readable"]))


def _can_read(target: Session, known: HistoryInput) -> bool:
    return is_readable(target) if known.is_readable is None else known.is_readable


def _add_append(
    history: CopyHistory, spec: CopySpec, target: Session, target_relation: Relation | None
) -> Finding[CopyHistory]:
    """Return the ledger with what it knows of the slice."""
    table = (target_relation and target_relation.name) or spec.target_table
    oid, kin = (target_relation.oid, target_relation.kin) if target_relation else (0, ())
    found = slices.find_append(target, table, oid, str(spec.append_key), history.source_identity, kin=kin)
    if isinstance(found, Refusal):
        return Finding(history, (found,))
    if isinstance(found, VanishedAppend):
        reason = f"slice {spec.append_key} is appended once more: its rows are gone: {found.why}"
        again = replace(history, previous_receipt=found.receipt, was_empty=found.is_empty, reasons=(reason,))
        return Finding(again, reasons=again.reasons)
    return Finding(history if found is None else replace(history, earlier_append=found))


def _read_watermark(
    target: Session, target_relation: Relation, history: CopyHistory, cursor: Cursor
) -> StoredWatermark | None:
    kin = [str(each) for each in target_relation.kin]
    asked = {
        "target": str(target_relation.name),
        "origin": history.source_identity.digest,
        "oid": target_relation.oid,
        "kin": kin,
    }
    row = target.fetch_one(_WATERMARK["of_origin"], asked)
    if row is None:
        return None
    stale = None
    if row["type"] != cursor.kind.type:
        stale = f"the cursor was {row['type']} then"
    elif row["basis"] != history.basis:
        stale = "the source has been made anew since"
    elif not row["same_target"]:
        stale = f"{target_relation.label} has been made anew since"
    elif row["overwritten"]:
        stale = f"a copy into a partition or parent of {target_relation.label} has replaced or deleted rows since"
    elif row["changed"]:
        stale = f"a copy has replaced {target_relation.label} since, deleted rows of it, or found it empty"
    elif row["moved"]:
        stale = f"{target_relation.label} has been truncated or rewritten since"
    empty = target_relation.name is not None and _is_empty(target, target_relation.name)
    return StoredWatermark(row["value"], f"{target_relation.label} is empty" if empty else stale, is_empty=empty)


def _is_empty(target: Session, table: TableName) -> bool:
    with target.run_user_sql():
        return not target.fetch_value(statements.any_row(statements.select((), table, None)))


def _check_watermark(
    source: Session, target_relation: Relation | None, history: CopyHistory, cursor: Cursor
) -> list[Refusal]:
    """Only a hand can have put there what is no value of the cursor's: what it means is for a person to say."""
    if history.watermark is None or target_relation is None or is_value(source, cursor, history.watermark):
        return []
    row = f"the row of safecopy.watermark whose target is {target_relation.name} and whose origin is {history.source_identity.digest}"
    return [
        Refusal(
            "bad_watermark",
            f"the watermark {history.watermark:.80} is no value of {spell(cursor.column)}, {cursor.kind.type}",
            table=str(target_relation.name),
            column=spell(cursor.column),
            hint=f"put the right value into {row}, or delete that row: the next run then reads everything once more",
        )
    ]


def _add_read_range(
    history: CopyHistory,
    spec: CopySpec,
    source: Session,
    cursor: Cursor,
    *,
    target_relation: Relation | None,
    known: HistoryInput,
) -> Finding[CopyHistory]:
    """Return the ledger with what is to be read; an earlier one knows it where the source would compute the same."""
    if (former := known.earlier_history) is not None and former.has_same_range(history, cursor):
        again = replace(history, read_range=former.read_range, append_key=former.append_key, reasons=former.reasons)
        return Finding(replace(again, warnings=former.warnings), reasons=former.reasons, warnings=former.warnings)
    if refused := _check_watermark(source, target_relation, history, cursor):
        return Finding(history, tuple(refused))
    found = bounds_of(spec, source, cursor, history.watermark, known.lookbacks)
    bounds, why = found.value, "".join(found.reasons)
    if history.stored_watermark and history.stored_watermark.stale_reason:
        why += f"; {history.stored_watermark.value} does not count: {history.stored_watermark.stale_reason}"
    asked = spec.interval_start is not None
    name = spec.append_key or (f"{bounds.start}/{bounds.end}" if asked else None)
    told, warnings = (f"incremental {bounds}: {why}",), zone_warnings(spec, cursor)
    bounded = replace(history, read_range=bounds, append_key=name, reasons=told, warnings=warnings)
    return Finding(bounded, found.refusals, told, warnings)

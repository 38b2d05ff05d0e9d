"""The copy history: what the target's schema `safecopy` knows of earlier publishes, and what a copy makes of it.

An append adds rows to a target under a key: once, and again only when its rows are gone.

A receipt says that a key was appended. Whether its rows are still there is judged by the table: its OID, whether it
is empty or was found empty or replaced since, and the files its rows were put into. If the table does not show it, the
copy is refused: rows must neither be missing nor be there twice. A name proves nothing: tables are renamed, detached and
rebuilt by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.planning.incremental import (
    Cursor,
    Lookbacks,
    ReadRange,
    bounds_of,
    cursor_of,
    is_value,
    zone_warnings,
)
from airflow_provider_safecopy.planning.source_identity import CopyIdentity, SourceIdentity
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec

_RECEIPT = sql.load("receipt")


@dataclass(frozen=True)
class AppendRecord:
    """That a slice has been appended: by which run, when (ISO 8601), and how many rows it has."""

    lock: str
    token: int
    attempt: str
    published_at: str
    rows: int
    bytes: int | None
    digest: str | None


@dataclass(frozen=True)
class VanishedAppend:
    """A slice whose rows are certainly gone: the `receipt` that the next one follows, and `why`.

    `is_empty`: because the whole table is empty.
    """

    receipt: int
    why: str
    is_empty: bool = False


def find_append(
    target: Session,
    table: TableName,
    oid: int,
    append_key: str,
    source_identity: SourceIdentity,
    *,
    kin: Sequence[TableName] = (),
) -> AppendRecord | VanishedAppend | Refusal | None:
    """Return what became of the slice in `table` (`oid`, 0 if it does not exist); None if never appended.

    `kin` are the partitions and parents of the table.
    """
    asked = {"target": str(table), "slice": append_key, "oid": oid, "kin": [str(each) for each in kin]}
    row = target.fetch_one(_RECEIPT["of_slice"], asked)
    if row is None:
        return None
    if (vanished := _find_vanished(table, oid, row)) is not None:
        return vanished
    if row["inserted"] != 0:
        seen = _read_target_rows(target, table, row)
        if (vanished := _find_emptied(table, row, seen)) is not None:
            return vanished
        if (doubt := _find_doubt(row, seen)) is not None:
            return _refuse_doubt(table, append_key, row, doubt)
    if row["origin"] != source_identity.digest:
        return _refuse_other_rows(table, append_key, row, str(source_identity))
    return AppendRecord(
        row["lock"], row["token"], row["attempt"], row["published_at"], row["inserted"], row["bytes"], row["digest"]
    )


def require_unchanged_append(target: Session, table: TableName, append_key: str, previous_receipt: int) -> None:
    """Raise a retryable `PlanError`, inside the publish, if the slice was appended since planning."""
    row = target.fetch_one(_RECEIPT["last_of_slice"], {"target": str(table), "slice": append_key})
    if row is not None and row["id"] != previous_receipt:
        raise already_appended_error(table, append_key, f"token {row['token']} did, at {row['published_at']}")


@dataclass(frozen=True)
class _Leaf:
    """The table itself or a partition of it. `has_rows`: whether it holds any; None if this role may not read it."""

    name: TableName
    fate: str
    has_rows: bool | None


@dataclass(frozen=True)
class _TargetRows:
    """The rows that a look at the target finds: whether it holds any at all, and which of its leaves do."""

    has_rows: bool
    leaves: tuple[_Leaf, ...] = ()

    def list_leaves(self, *fates: str) -> list[_Leaf]:
        """Return the leaves with one of these fates that hold rows, or may hold some."""
        return [leaf for leaf in self.leaves if leaf.fate in fates and leaf.has_rows is not False]

    def has_empty(self, *fates: str) -> bool:
        """Return whether a leaf with one of these fates is empty."""
        return any(leaf.fate in fates and leaf.has_rows is False for leaf in self.leaves)


def _read_target_rows(target: Session, table: TableName, row: dict[str, Any]) -> _TargetRows:
    """Return what the target holds now, asked in one statement."""
    names = [TableName(*each) for each in zip(row["schemas"], row["names"], strict=True)]
    readable = [name for name, may_read in zip(names, row["readable"], strict=True) if may_read]
    with target.run_user_sql():
        whole, *each = target.fetch_value(statements.any_rows(table, readable))
    rows = dict(zip(readable, each, strict=True))
    leaves = (_Leaf(name, fate, rows.get(name)) for name, fate in zip(names, row["fates"], strict=True))
    return _TargetRows(whole, tuple(leaves))


def _find_vanished(table: TableName, oid: int, row: dict[str, Any]) -> VanishedAppend | None:
    """Return why the ledger proves that none of the rows can be there any more, or None."""
    events = {"replaced": "has been replaced"}
    # A slice without rows can miss none.
    if row["inserted"] != 0:
        events["emptied"] = "has been found empty by a later copy"
    if row["another"] and (oid == 0 or row["inserted"] == 0):
        events["another"] = "has been made anew"
    why = next((what for event, what in events.items() if row[event]), "does not exist" if oid == 0 else None)
    return None if why is None else VanishedAppend(row["last"], f"{table} {why}")


def _find_emptied(table: TableName, row: dict[str, Any], target_rows: _TargetRows) -> VanishedAppend | None:
    """Return why the target shows that none of the rows can be there any more, or None."""
    if not target_rows.has_rows:
        return VanishedAppend(row["last"], f"{table} is empty", is_empty=True)
    put = row["gone"] or target_rows.has_empty("kept", "rewritten")
    if (
        put
        and not row["another"]
        and not target_rows.list_leaves("kept", "rewritten", *(["later"] if row["elsewhere"] else []))
    ):
        return VanishedAppend(row["last"], f"the partitions of {table} it was added to are empty or gone")
    return None


def _find_doubt(row: dict[str, Any], target_rows: _TargetRows) -> str | None:
    """Return why some rows may be missing; None if all or none are there."""
    if row["another"]:
        return "the table has been made anew since, and holds rows"
    if row["thinned"]:
        return "a copy with missing=delete has deleted rows since"
    if row["overwritten"]:
        return "a copy into one of its partitions or parents has replaced or deleted rows since"
    return _find_rewritten(target_rows) or _find_lost(row, target_rows)


def _find_rewritten(target_rows: _TargetRows) -> str | None:
    """Return which tables have a new file and hold rows, of which none can say where they come from."""
    suspects = target_rows.list_leaves("rewritten")
    if filled := ", ".join(str(leaf.name) for leaf in suspects if leaf.has_rows):
        return f"{filled} has been truncated or rewritten since (TRUNCATE, VACUUM FULL, CLUSTER, ALTER TABLE), and holds rows"
    return "a partition that this role may not read has been truncated or rewritten since" if suspects else None


def _find_lost(row: dict[str, Any], target_rows: _TargetRows) -> str | None:
    """Return which rows may be missing with a partition that is empty or gone."""
    # A server that does not count rows lists partitions that never got any: that one of them is empty says nothing.
    if not row["gone"] and not target_rows.has_empty("rewritten", *(["kept"] if row["counted"] else [])):
        return None
    if row["elsewhere"] and (named := ", ".join(str(leaf.name) for leaf in target_rows.list_leaves("later"))):
        return f"partitions it was added to are empty, dropped or detached, and its rows may be in {named}"
    return "some of the partitions it was added to are empty or gone, and others are not"


def _refuse_doubt(table: TableName, append_key: str, row: dict[str, Any], doubt: str) -> Refusal:
    return Refusal(
        "slice_unsure",
        f"{table}: slice {append_key} was appended at {row['published_at']} (token {row['token']}), but it is unclear whether "
        f"its rows are still there: {doubt}",
        table=str(table),
        hint="look for its rows: if they are there, there is nothing to copy; if not, remove what is left of them and give "
        "this copy another append_key",
    )


def already_appended_error(table: TableName, append_key: str, detail: str) -> PlanError:
    """Return the error of the second run; its next try finds out whether the first appended the same."""
    message = (
        f"{table}: slice {append_key} has been appended since this copy was planned: {detail}; nothing was changed"
    )
    return PlanError((Refusal("slice_taken", message, str(table), hint="run the copy again"),), retryable=True)


def _refuse_other_rows(table: TableName, append_key: str, row: dict[str, Any], requested: str) -> Refusal:
    first = row["read"] or row["source"]
    return Refusal(
        "slice_taken",
        f"{table}: slice {append_key} was appended at {row['published_at']} (token {row['token']}) from {first}, "
        f"and would now be of other rows: {requested}",
        table=str(table),
        hint="give this one another append_key",
    )


_WATERMARK = sql.load("watermark")


@dataclass(frozen=True)
class StoredWatermark:
    """A watermark as the ledger has it. `stale_reason` says why it does not count any more; None where it does; `is_empty`, whether the target is."""

    value: str
    stale_reason: str | None = None
    is_empty: bool = False


@dataclass(frozen=True)
class CopyHistory:
    """The history that one copy finds, and will enter. Made anew with each plan; the last one under the lock.

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
    """The known facts of a copy before its history is read: its identity, and what the history made of it a moment ago.

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
    found = find_append(target, table, oid, str(spec.append_key), history.source_identity, kin=kin)
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

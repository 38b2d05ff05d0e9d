"""The copy history: what the target's schema `safecopy` knows of earlier publishes.

An append adds rows to a target under a key: once, and again only when its rows are gone.

A receipt says that a key was appended. Whether its rows are still there is decided by the table: its OID, whether it is
empty or was found empty or replaced since, and the files its rows were put into. If the table does not show it, the
copy is refused: rows must neither be missing nor be there twice. A name proves nothing: tables are renamed, detached
and rebuilt by hand.
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
    """The receipt of an append key whose rows are there.

    It says which run appended them, when (ISO 8601, UTC), and how many they were.
    """

    lock: str
    token: int
    attempt: str
    published_at: str
    rows: int
    bytes: int | None
    digest: str | None


@dataclass(frozen=True)
class VanishedAppend:
    """An append whose rows are certainly gone.

    `receipt` is the receipt that the next append follows, `why` the reason. `is_empty`: the whole table is empty.
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
    """Return the state of `append_key` in `table`; None if it was never appended.

    `oid` is the table's, 0 if it does not exist. `kin` are its partitions and parents. A `Refusal` means that it is
    unclear whether the rows are still there, or that they came from another source.
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
    # Checked last: rows that are gone do not matter, wherever they came from.
    if row["origin"] != source_identity.digest:
        return _refuse_other_rows(table, append_key, row, str(source_identity))
    return AppendRecord(
        row["lock"], row["token"], row["attempt"], row["published_at"], row["inserted"], row["bytes"], row["digest"]
    )


def require_unchanged_append(target: Session, table: TableName, append_key: str, previous_receipt: int) -> None:
    """Raise a retryable `PlanError` if the key was appended since planning.

    The publish calls it, inside its transaction.
    """
    row = target.fetch_one(_RECEIPT["last_of_slice"], {"target": str(table), "slice": append_key})
    # The plan knows the receipt of rows that are gone; any other receipt came after the plan.
    if row is not None and row["id"] != previous_receipt:
        raise already_appended_error(table, append_key, f"token {row['token']} did, at {row['published_at']}")


@dataclass(frozen=True)
class _Leaf:
    """The table itself, or a partition of it.

    `fate` is that of its file since the append (see `of_slice` in receipt.sql). `has_rows` is None if this role may not
    read it.
    """

    name: TableName
    fate: str
    has_rows: bool | None


@dataclass(frozen=True)
class _TargetRows:
    """The rows that the target holds now: whether it holds any, and which of its leaves do."""

    has_rows: bool
    leaves: tuple[_Leaf, ...] = ()

    def list_leaves(self, *fates: str) -> list[_Leaf]:
        """Return the leaves with one of these fates that hold rows, or may hold some."""
        return [leaf for leaf in self.leaves if leaf.fate in fates and leaf.has_rows is not False]

    def has_empty(self, *fates: str) -> bool:
        """Return whether a leaf with one of these fates is empty."""
        return any(leaf.fate in fates and leaf.has_rows is False for leaf in self.leaves)


def _read_target_rows(target: Session, table: TableName, row: dict[str, Any]) -> _TargetRows:
    """Return which tables hold rows now."""
    names = [TableName(*each) for each in zip(row["schemas"], row["names"], strict=True)]
    readable = [name for name, may_read in zip(names, row["readable"], strict=True) if may_read]
    with target.run_user_sql():
        # One statement, so one instant: between two, rows could move from one partition to another and be missed.
        whole, *each = target.fetch_value(statements.any_rows(table, readable))
    rows = dict(zip(readable, each, strict=True))
    leaves = (_Leaf(name, fate, rows.get(name)) for name, fate in zip(names, row["fates"], strict=True))
    return _TargetRows(whole, tuple(leaves))


def _find_vanished(table: TableName, oid: int, row: dict[str, Any]) -> VanishedAppend | None:
    """Return why the history proves that all of the rows are gone, or None."""
    events = {"replaced": "has been replaced"}
    # An append without rows cannot miss any.
    if row["inserted"] != 0:
        events["emptied"] = "has been found empty by a later copy"
    # A table that was made anew with rows may hold these rows again: that is a doubt, and no proof.
    if row["another"] and (oid == 0 or row["inserted"] == 0):
        events["another"] = "has been made anew"
    why = next((what for event, what in events.items() if row[event]), "does not exist" if oid == 0 else None)
    return None if why is None else VanishedAppend(row["last"], f"{table} {why}")


def _find_emptied(table: TableName, row: dict[str, Any], target_rows: _TargetRows) -> VanishedAppend | None:
    """Return why the target shows that all of the rows are gone, or None."""
    if not target_rows.has_rows:
        return VanishedAppend(row["last"], f"{table} is empty", is_empty=True)
    # A table that got none of the rows counts only where they may be now: see `elsewhere` in receipt.sql.
    put = row["gone"] or target_rows.has_empty("kept", "rewritten")
    if (
        put
        and not row["another"]
        and not target_rows.list_leaves("kept", "rewritten", *(["later"] if row["elsewhere"] else []))
    ):
        return VanishedAppend(row["last"], f"the partitions of {table} it was added to are empty or gone")
    return None


def _find_doubt(row: dict[str, Any], target_rows: _TargetRows) -> str | None:
    """Return why some of the rows may be missing; None if all or none are there."""
    if row["another"]:
        return "the table has been made anew since, and holds rows"
    if row["thinned"]:
        return "a copy with missing=delete has deleted rows since"
    if row["overwritten"]:
        return "a copy into one of its partitions or parents has replaced or deleted rows since"
    return _find_rewritten(target_rows) or _find_lost(row, target_rows)


def _find_rewritten(target_rows: _TargetRows) -> str | None:
    """Return which tables have a new file and hold rows of unknown origin, or None."""
    # VACUUM FULL keeps rows, TRUNCATE does not, and both leave a new file: nothing tells which it was.
    suspects = target_rows.list_leaves("rewritten")
    if filled := ", ".join(str(leaf.name) for leaf in suspects if leaf.has_rows):
        return f"{filled} has been truncated or rewritten since (TRUNCATE, VACUUM FULL, CLUSTER, ALTER TABLE), and holds rows"
    return "a partition that this role may not read has been truncated or rewritten since" if suspects else None


def _find_lost(row: dict[str, Any], target_rows: _TargetRows) -> str | None:
    """Return why rows may be missing with a partition that is empty or gone, or None."""
    # A server that does not count rows lists partitions that never got any: an empty one of them proves nothing.
    if not row["gone"] and not target_rows.has_empty("rewritten", *(["kept"] if row["counted"] else [])):
        return None
    if row["elsewhere"] and (named := ", ".join(str(leaf.name) for leaf in target_rows.list_leaves("later"))):
        return f"partitions it was added to are empty, dropped or detached, and its rows may be in {named}"
    return "some of the partitions it was added to are empty or gone, and others are not"


def _refuse_doubt(table: TableName, append_key: str, row: dict[str, Any], doubt: str) -> Refusal:
    return Refusal(
        "slice_unsure",
        f"{table}: append_key {append_key} was appended at {row['published_at']} (token {row['token']}), but it is unclear whether "
        f"its rows are still there: {doubt}",
        table=str(table),
        hint="look for its rows: if they are there, there is nothing to copy; if not, remove what is left of them and give "
        "this copy another append_key",
    )


def already_appended_error(table: TableName, append_key: str, detail: str) -> PlanError:
    """Return the retryable error of a run whose key was appended after its plan.

    Its next try finds out whether the other run appended the same.
    """
    message = (
        f"{table}: append_key {append_key} has been appended since this copy was planned: {detail}; nothing was changed"
    )
    return PlanError((Refusal("slice_taken", message, str(table), hint="run the copy again"),), retryable=True)


def _refuse_other_rows(table: TableName, append_key: str, row: dict[str, Any], requested: str) -> Refusal:
    first = row["read"] or row["source"]
    return Refusal(
        "slice_taken",
        f"{table}: append_key {append_key} was appended at {row['published_at']} (token {row['token']}) from {first}, "
        f"and would now add other rows: {requested}",
        table=str(table),
        hint="give this one another append_key",
    )


_WATERMARK = sql.load("watermark")


@dataclass(frozen=True)
class StoredWatermark:
    """A watermark as the copy history stores it.

    `stale_reason` says why it does not count any more; None if it counts. `is_empty`: the target is empty.
    """

    value: str
    stale_reason: str | None = None
    is_empty: bool = False


@dataclass(frozen=True)
class CopyHistory:
    """The history that one copy finds, and the entry that it will add.

    It is read with each plan; the last time under the lock. `source_label` is the source's identity as the target can
    spell it, `basis` the digest of what its name stands for now. `earlier_append`: the key's rows are there already.
    `previous_receipt`: the receipt of an append whose rows are gone, 0 without one. `was_empty`: the target was found
    without rows. `append_key` of an incremental copy is its interval, unless another key was given.
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
        """The value of the watermark; None without one that counts."""
        return self.stored_watermark.value if self.stored_watermark and not self.stored_watermark.stale_reason else None

    def has_same_range(self, history: CopyHistory, cursor: Cursor) -> bool:
        """Return whether the source would compute this read range for `history` and `cursor` too."""
        return self.read_range is not None and (self.read_range.cursor, self.stored_watermark) == (
            cursor,
            history.stored_watermark,
        )

    def list_checked_lookbacks(self, lookback: str | None) -> Lookbacks:
        """Return the `lookback` if the source has computed it without a watermark; else nothing.

        The plans that follow need not check it again.
        """
        if self.read_range is None or self.watermark is not None or lookback is None:
            return frozenset()
        return frozenset({(self.read_range.cursor.kind.type, lookback)})

    def build_watermark_entry(self, new: str | None) -> dict[str, Any] | None:
        """Return what an incremental copy read, and its watermark afterwards (`new`).

        None for any other copy.
        """
        if self.read_range is None:
            return None
        bounds = self.read_range
        limits = {"start": bounds.start, "end": bounds.end}
        return {"cursor_column": bounds.cursor.column, "old": self.watermark, "new": new, **limits}


@dataclass(frozen=True)
class HistoryInput:
    """The facts of a copy that are known before its history is read.

    `is_readable` is None until the target was asked. `earlier_history` is that of the plan made a moment ago.
    `lookbacks` are those that other plans have found to be good. `is_refused`: the copy is refused already, and its
    identity alone is of use.
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
    """Return the copy history of a copy. Reads only.

    `target_relation` is the target; None if it does not exist yet.
    """
    source, target = sessions
    identity = known.identity.value
    ledger = CopyHistory(identity.source_identity, identity.source_label, identity.basis, spec.append_key)
    # Questions for a copy that will not run would only delay its refusals.
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
    """Return whether the copy history exists and this role may read it."""
    return bool(target.fetch_value(_WATERMARK["readable"]))


def _can_read(target: Session, known: HistoryInput) -> bool:
    return is_readable(target) if known.is_readable is None else known.is_readable


def _add_append(
    history: CopyHistory, spec: CopySpec, target: Session, target_relation: Relation | None
) -> Finding[CopyHistory]:
    """Return the history with what it knows of the append key."""
    table = (target_relation and target_relation.name) or spec.target_table
    oid, kin = (target_relation.oid, target_relation.kin) if target_relation else (0, ())
    found = find_append(target, table, oid, str(spec.append_key), history.source_identity, kin=kin)
    if isinstance(found, Refusal):
        return Finding(history, (found,))
    if isinstance(found, VanishedAppend):
        reason = f"append_key {spec.append_key} is appended once more: its rows are gone: {found.why}"
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
    # It counts for the very tables that it was read from and into: others of the same names may hold rows that were
    # never read, or lack rows that were.
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
    # Whatever emptied the target, what the watermark counts as read is not there any more.
    empty = target_relation.name is not None and _is_empty(target, target_relation.name)
    return StoredWatermark(row["value"], f"{target_relation.label} is empty" if empty else stale, is_empty=empty)


def _is_empty(target: Session, table: TableName) -> bool:
    with target.run_user_sql():
        return not target.fetch_value(statements.any_row(statements.select((), table, None)))


def _check_watermark(
    source: Session, target_relation: Relation | None, history: CopyHistory, cursor: Cursor
) -> list[Refusal]:
    """Refuse a watermark that is no value of the cursor's type.

    Only a person can have written such a value, and only a person can say what it means.
    """
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
    """Return the history with its read range."""
    # The plan under the lock follows one without it: the source need not compute the same range twice.
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

"""A slice: what one append adds to a target, by name; it is added once, and again only when its rows are gone.

A receipt says that a slice was appended. Whether its rows are still there is judged by the table: its OID, whether it
is empty or was found empty or replaced since, and the files its rows were put into. If the table does not show it, the
copy is refused: rows must neither be missing nor be there twice. A name proves nothing: tables are renamed, detached and
rebuilt by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.transfer import statements
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.origin import SourceIdentity
from airflow_provider_safecopy.transfer.session import Session

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
    """What a look at the target shows: whether it holds rows at all, and which of its leaves do."""

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
    if row["inserted"] != 0:  # a slice without rows can miss none
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

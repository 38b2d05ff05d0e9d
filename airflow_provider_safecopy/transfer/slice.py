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
from airflow_provider_safecopy.transfer.origin import Origin
from airflow_provider_safecopy.transfer.session import Session

_RECEIPT = sql.load("receipt")


@dataclass(frozen=True)
class Appended:
    """That a slice has been appended: by which run, when (ISO 8601), and how many rows it has."""

    lock: str
    token: int
    attempt: str
    published_at: str
    rows: int
    bytes: int | None
    digest: str | None


@dataclass(frozen=True)
class VanishedSlice:
    """A slice whose rows are certainly gone: the `receipt` that the next one follows, and `why`.

    `empty`: because the whole table is empty.
    """

    receipt: int
    why: str
    empty: bool = False


def find(
    target: Session, table: TableName, oid: int, name: str, origin: Origin, *, kin: Sequence[TableName] = ()
) -> Appended | VanishedSlice | Refusal | None:
    """Return what became of the slice in `table` (`oid`, 0 if it does not exist); None if never appended.

    `kin` are the partitions and parents of the table.
    """
    asked = {"target": str(table), "slice": name, "oid": oid, "kin": [str(each) for each in kin]}
    row = target.one(_RECEIPT["of_slice"], asked)
    if row is None:
        return None
    if (vanished := _vanished(table, oid, row)) is not None:
        return vanished
    if row["inserted"] != 0:
        seen = _look(target, table, row)
        if (vanished := _emptied(table, row, seen)) is not None:
            return vanished
        if (doubt := _doubt(row, seen)) is not None:
            return _doubt_refusal(table, name, row, doubt)
    if row["origin"] != origin.digest:
        return _taken(table, name, row, str(origin))
    return Appended(
        row["lock"], row["token"], row["attempt"], row["published_at"], row["inserted"], row["bytes"], row["digest"]
    )


def require_unchanged(target: Session, table: TableName, name: str, follows: int) -> None:
    """Raise a retryable `PlanError`, inside the publish, if the slice was appended since planning."""
    row = target.one(_RECEIPT["last_of_slice"], {"target": str(table), "slice": name})
    if row is not None and row["id"] != follows:
        raise already(table, name, f"token {row['token']} did, at {row['published_at']}")


@dataclass(frozen=True)
class _Leaf:
    """The table itself or a partition of it. `rows`: whether it holds any; None if this role may not read it."""

    name: TableName
    fate: str
    rows: bool | None


@dataclass(frozen=True)
class _Seen:
    """What a look at the target shows: whether it holds rows at all, and which of its leaves do."""

    rows: bool
    leaves: tuple[_Leaf, ...] = ()

    def of(self, *fates: str) -> list[_Leaf]:
        """Return the leaves with one of these fates that hold rows, or may hold some."""
        return [leaf for leaf in self.leaves if leaf.fate in fates and leaf.rows is not False]

    def has_empty(self, *fates: str) -> bool:
        """Return whether a leaf with one of these fates is empty."""
        return any(leaf.fate in fates and leaf.rows is False for leaf in self.leaves)


def _look(target: Session, table: TableName, row: dict[str, Any]) -> _Seen:
    """Return what the target holds now, asked in one statement."""
    names = [TableName(*each) for each in zip(row["schemas"], row["names"], strict=True)]
    readable = [name for name, may_read in zip(names, row["readable"], strict=True) if may_read]
    with target.reading():
        whole, *each = target.value(statements.any_rows(table, readable))
    rows = dict(zip(readable, each, strict=True))
    leaves = (_Leaf(name, fate, rows.get(name)) for name, fate in zip(names, row["fates"], strict=True))
    return _Seen(whole, tuple(leaves))


def _vanished(table: TableName, oid: int, row: dict[str, Any]) -> VanishedSlice | None:
    """Return why the ledger proves that none of the rows can be there any more, or None."""
    events = {"replaced": "has been replaced"}
    if row["inserted"] != 0:  # a slice without rows can miss none
        events["emptied"] = "has been found empty by a later copy"
    if row["another"] and (oid == 0 or row["inserted"] == 0):
        events["another"] = "has been made anew"
    why = next((what for event, what in events.items() if row[event]), "does not exist" if oid == 0 else None)
    return None if why is None else VanishedSlice(row["last"], f"{table} {why}")


def _emptied(table: TableName, row: dict[str, Any], seen: _Seen) -> VanishedSlice | None:
    """Return why the target shows that none of the rows can be there any more, or None."""
    if not seen.rows:
        return VanishedSlice(row["last"], f"{table} is empty", empty=True)
    put = row["gone"] or seen.has_empty("kept", "rewritten")
    if put and not row["another"] and not seen.of("kept", "rewritten", *(["later"] if row["elsewhere"] else [])):
        return VanishedSlice(row["last"], f"the partitions of {table} it was added to are empty or gone")
    return None


def _doubt(row: dict[str, Any], seen: _Seen) -> str | None:
    """Return why some rows may be missing; None if all or none are there."""
    if row["another"]:
        return "the table has been made anew since, and holds rows"
    if row["thinned"]:
        return "a copy with missing=delete has deleted rows since"
    if row["overwritten"]:
        return "a copy into one of its partitions or parents has replaced or deleted rows since"
    return _rewritten(seen) or _lost(row, seen)


def _rewritten(seen: _Seen) -> str | None:
    """Return which tables have a new file and hold rows, of which none can say where they come from."""
    suspects = seen.of("rewritten")
    if filled := ", ".join(str(leaf.name) for leaf in suspects if leaf.rows):
        return f"{filled} has been truncated or rewritten since (TRUNCATE, VACUUM FULL, CLUSTER, ALTER TABLE), and holds rows"
    return "a partition that this role may not read has been truncated or rewritten since" if suspects else None


def _lost(row: dict[str, Any], seen: _Seen) -> str | None:
    """Return which rows may be missing with a partition that is empty or gone."""
    # A server that does not count rows lists partitions that never got any: that one of them is empty says nothing.
    if not row["gone"] and not seen.has_empty("rewritten", *(["kept"] if row["counted"] else [])):
        return None
    if row["elsewhere"] and (named := ", ".join(str(leaf.name) for leaf in seen.of("later"))):
        return f"partitions it was added to are empty, dropped or detached, and its rows may be in {named}"
    return "some of the partitions it was added to are empty or gone, and others are not"


def _doubt_refusal(table: TableName, name: str, row: dict[str, Any], doubt: str) -> Refusal:
    return Refusal(
        "slice_unsure",
        f"{table}: slice {name} was appended at {row['published_at']} (token {row['token']}), but it is unclear whether "
        f"its rows are still there: {doubt}",
        table=str(table),
        hint="look for its rows: if they are there, there is nothing to copy; if not, remove what is left of them and give "
        "this copy another slice",
    )


def already(table: TableName, name: str, who: str) -> PlanError:
    """Return the error of the second run; its next try finds out whether the first appended the same."""
    message = f"{table}: slice {name} has been appended since this copy was planned: {who}; nothing was changed"
    return PlanError((Refusal("slice_taken", message, str(table), hint="run the copy again"),), retryable=True)


def _taken(table: TableName, name: str, row: dict[str, Any], asked: str) -> Refusal:
    first = row["read"] or row["source"]
    return Refusal(
        "slice_taken",
        f"{table}: slice {name} was appended at {row['published_at']} (token {row['token']}) from {first}, "
        f"and would now be of other rows: {asked}",
        table=str(table),
        hint="give this one another slice",
    )

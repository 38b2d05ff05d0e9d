"""A slice: what one append adds to a target, by name; it is added once, and again only when its rows are gone.

A receipt says that a slice was appended. Whether its rows are still there is judged by the table: its OID, whether it
is empty or was found empty or replaced since, and the files its rows were put into. If the table does not show it, the
copy is refused: rows must neither be missing nor be there twice.
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
    """A slice whose rows are certainly gone: its `receipt`, and `why`.

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
    if (vanished := _vanished(target, table, oid, row)) is not None:
        return vanished
    if (doubt := _doubt(target, row)) is not None:
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


def _vanished(target: Session, table: TableName, oid: int, row: dict[str, Any]) -> VanishedSlice | None:
    """Return why none of the rows can be there any more, or None."""
    events = {"replaced": "has been replaced", "another": "has been made anew"}
    if row["inserted"] != 0:  # a slice without rows can miss none
        events["emptied"] = "has been found empty by a later copy"
    why = next((told for event, told in events.items() if row[event] or (event == "another" and oid == 0)), None)
    if why is not None or row["inserted"] == 0:
        return None if why is None else VanishedSlice(row["id"], f"{table} {why}")
    if not target.value(statements.any_row(statements.select((), table, None))):
        return VanishedSlice(row["id"], f"{table} is empty", empty=True)
    put = row["kept"] + row["gone"] + row["unreadable"] + len(row["names"])
    if put and not row["kept"] and not row["unreadable"] and not _filled(target, row):
        return VanishedSlice(row["id"], f"the partitions of {table} it was added to are empty or gone")
    return None


def _doubt(target: Session, row: dict[str, Any]) -> str | None:
    """Return why some rows may be missing; None if all or none are there."""
    if row["thinned"]:
        return "a copy with missing=delete has deleted rows since"
    if row["overwritten"]:
        return "a copy into one of its partitions or parents has replaced or deleted rows since"
    if filled := _filled(target, row):
        named = ", ".join(map(str, filled))
        return f"{named} has been truncated or rewritten since (TRUNCATE, VACUUM FULL, CLUSTER, ALTER TABLE), and holds rows"
    if row["unreadable"]:
        return "a partition that this role may not read has been truncated or rewritten since"
    if row["gone"] or row["names"]:
        return "some of the partitions it was added to are empty or gone, and others are not"
    return None


def _filled(target: Session, row: dict[str, Any]) -> list[TableName]:
    """Return the tables that hold rows although their file is new."""
    tables = [TableName(*each) for each in zip(row["schemas"], row["names"], strict=True)]
    return [each for each in tables if target.value(statements.any_row(statements.select((), each, None)))]


def _doubt_refusal(table: TableName, name: str, row: dict[str, Any], doubt: str) -> Refusal:
    return Refusal(
        "slice_unsure",
        f"{table}: slice {name} was appended at {row['published_at']} (token {row['token']}), but it is unclear whether "
        f"its rows are still there: {doubt}",
        table=str(table),
        hint="look for its rows: if they are there, there is nothing to copy; if not, give this copy another append_key",
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
        hint="give this one another append_key",
    )

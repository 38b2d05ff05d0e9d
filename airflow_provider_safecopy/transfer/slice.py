"""A slice: what one append adds to a target, by name; it is added once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
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


def find(target: Session, table: TableName, name: str, origin: Origin, told: str) -> Appended | Refusal | None:
    """That the slice is there already; that it is, but of other rows; or None."""
    row = target.one(_RECEIPT["of_slice"], {"target": str(table), "slice": name})
    if row is None:
        return None
    if row["origin"] != origin.digest:
        return _taken(table, name, row, told)
    return Appended(
        row["lock"], row["token"], row["attempt"], row["published_at"], row["inserted"], row["bytes"], row["digest"]
    )


def demand_new(target: Session, table: TableName, name: str) -> None:
    """Inside the publish. Raises `PlanError`, worth a retry, when somebody has appended the slice since."""
    if row := target.one(_RECEIPT["of_slice"], {"target": str(table), "slice": name}):
        raise already(table, name, f"token {row['token']} did, at {row['published_at']}")


def already(table: TableName, name: str, who: str) -> PlanError:
    """That another run was quicker; the next try finds out whether it appended the same."""
    message = f"{table}: slice {name} has been appended since this copy was planned: {who}; nothing was changed"
    return PlanError((Refusal("slice_taken", message, str(table), hint="run the copy again"),), retryable=True)


def _taken(table: TableName, name: str, row: dict[str, Any], told: str) -> Refusal:
    first = row["read"] or row["source"]
    return Refusal(
        "slice_taken",
        f"{table}: slice {name} was appended at {row['published_at']} (token {row['token']}) from {first}, "
        f"and would now be of other rows: {told}",
        table=str(table),
        hint="give this one another slice",
    )

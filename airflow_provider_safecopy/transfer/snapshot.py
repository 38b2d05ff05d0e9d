"""The snapshot a copy reads, and all its questions about the source are answered from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.transfer.session import Session


@contextmanager
def snapshot(source: Session) -> Iterator[str]:
    """A transaction on the source, and the name under which psql sees just what it sees. Raises `StageError`."""
    connection = source.connection
    try:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        name: str = source.value(sql.load("catalog")["export_snapshot"])
    except psycopg.Error as error:
        raise StageError(f"export: {source.endpoint}: {error}", stage="export", sqlstate=error.sqlstate) from error
    try:
        yield name
    finally:
        source.end_transaction()


def demand_whole(source: Session, table: int, *, readers: Sequence[int]) -> None:
    """Raise `StageError`, worth a retry, where the snapshot of `source` does not see all rows that there were.

    TRUNCATE and what rewrites a table are no part of MVCC: whoever has an older snapshot, and comes to the table only
    afterwards, finds it empty. `readers` are the backends that have read, or locked, what is copied; `table` is its
    OID, 0 of a query.
    """
    found = source.all(sql.load("catalog")["stored_anew"], {"table": table, "readers": list(readers)})
    if found:
        names = ", ".join(row["name"] for row in found)
        raise StageError(
            f"export: {names} was emptied, rewritten or replaced just after the snapshot was taken, which may not see "
            "its rows; nothing was changed",
            stage="export",
            hint="run it again: it reads what is there by then",
        )

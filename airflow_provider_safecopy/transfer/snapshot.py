"""The snapshot a copy reads, and all its questions about the source are answered from."""

from __future__ import annotations

from collections.abc import Iterator
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

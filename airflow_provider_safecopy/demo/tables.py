"""The demo's tables: made and filled on both servers, watched while they are copied, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.demo.servers import Server
from airflow_provider_safecopy.postgres.endpoint import Endpoint

CUSTOMERS, ORDERS = 120_000, 420_000
_YESTERDAY = 10
"""One in so many rows was in the target before."""


@dataclass(frozen=True)
class Database:
    """One side of the demo: the database `name` on `server`, with the tables in `schema`."""

    server: Server
    name: str
    schema: str

    @property
    def conninfo(self) -> str:
        """The connection string. Holds the password."""
        return self.server.conninfo(self.name)

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """A session in which the tables go by their bare names."""
        endpoint = Endpoint.from_conninfo(self.conninfo)
        with endpoint.connect(application_name="safecopy demo", connect_timeout=10) as connection:
            connection.execute(_statement("settings"))
            connection.execute(_statement("search_path"), {"schema": self.schema})
            yield connection


@dataclass(frozen=True)
class Content:
    """The content of a table: how many rows, and a hash of all of them, whatever their order."""

    rows: int
    hash: str


@dataclass(frozen=True)
class Position:
    """The progress of a table's copy: rows that have left the source, that have reached the target, of how many."""

    exported: int
    imported: int
    rows: int


def fill_source(database: Database, stop: Event) -> None:
    """Make the tables and all their rows, unless `stop` is set meanwhile."""
    _make(database, "schema_of_source", CUSTOMERS, ORDERS, stop)


def fill_target(database: Database, stop: Event) -> None:
    """Make the tables as they were yesterday, unless `stop` is set meanwhile."""
    _make(database, "schema_of_target", CUSTOMERS // _YESTERDAY, ORDERS // _YESTERDAY, stop)
    with database.session() as connection:
        connection.execute(_statement("old_rows"))


def counts(database: Database) -> dict[str, int]:
    """The rows of each table."""
    with database.session() as connection:
        return dict(connection.execute(_statement("counts")).fetchall())


def contents(database: Database) -> dict[str, Content]:
    """The content of each table, by SQL of the demo's own: nothing of SafeCopy's verification is in it."""
    with database.session() as connection:
        return {table: Content(rows, digest) for table, rows, digest in connection.execute(_statement("contents"))}


def positions(
    source: psycopg.Connection[Any], target: psycopg.Connection[Any], rows: Mapping[str, int]
) -> dict[str, Position]:
    """Return how far each copy is that goes on at the moment, as both servers see it, of so many `rows`."""
    exported = dict(source.execute(_statement("copying")).fetchall())
    imported = dict(target.execute(_statement("copying")).fetchall())
    going = [table for table in rows if table in exported or table in imported]
    return {table: Position(exported.get(table, rows[table]), imported.get(table, 0), rows[table]) for table in going}


def _make(database: Database, schema: str, customers: int, orders: int, stop: Event) -> None:
    database.server.execute("postgres", _statement(f"database_{database.name}"))
    steps: tuple[tuple[str, dict[str, int] | None], ...] = (
        (schema, None),
        ("common", None),
        ("tables", None),
        ("customers", {"rows": customers}),
        ("orders", {"rows": orders, "customers": customers}),
        ("sums", None),
        ("finish", None),
    )
    with database.session() as connection:
        for name, values in steps:
            if stop.is_set():
                return
            connection.execute(_statement(name), values)


def _statement(name: str) -> Any:
    return sql.load("demo")[name]

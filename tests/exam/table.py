"""A target table in the exam's own hands: read, made to differ, put back, and asked whether it bears some rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier

from tests.exam.subject import QUESTIONS

Session = psycopg.Connection[Any]
# As SafeCopy has it, so that what can be read is what it can read: names in functions must carry their schema.
PINNED = (
    "SET search_path = pg_catalog; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; "
    "SET bytea_output = 'hex'; SET extra_float_digits = 3; SET statement_timeout = '30s'; SET client_encoding = 'UTF8'"
)

_AS_THE_ROLE = b"SET LOCAL search_path TO DEFAULT; SET LOCAL DateStyle TO DEFAULT; SET LOCAL TimeZone TO DEFAULT;"
_AS_A_REPLICA = b"SET LOCAL session_replication_role = replica"


def content(session: Session, name: Composable) -> list[str]:
    """Every row as the server's own text of it, in an order of our own."""
    found = session.execute(SQL("SELECT ROW(t.*)::text FROM {} AS t").format(name)).fetchall()
    return sorted(text for (text,) in found)


def first_line(error: psycopg.Error) -> str:
    return f"{error.sqlstate} {str(error).splitlines()[0] if str(error) else type(error).__name__}"


@dataclass(frozen=True)
class Rehearsal:
    """Why a table does not bear some rows, empty where it does; and what it then holds."""

    why: str
    held: list[str]


@dataclass(frozen=True)
class Table:
    """A table of the target, by name: a swap gives it another OID.

    `alone` means without the rows of those that inherit from it.
    """

    session: Session
    schema: str
    table: str
    alone: bool

    @property
    def name(self) -> Identifier:
        return Identifier(self.schema, self.table)

    @property
    def place(self) -> Composed:
        return SQL("ONLY {}").format(self.name) if self.alone else SQL("{}").format(self.name)

    def content(self) -> list[str]:
        return content(self.session, self.place)

    def save(self, columns: Sequence[str] = ()) -> bytes:
        """All rows of these columns, or of all, as COPY has them."""
        listed = SQL(", ").join(map(Identifier, columns or self.columns()))
        query = SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(listed, self.place)
        with self.session.cursor().copy(query) as rows:
            return b"".join(bytes(block) for block in rows)

    def restore(self, saved: bytes) -> None:
        """What was saved is there again. No trigger, rule or foreign key has a say in it."""
        with self._as_a_replica():
            self.session.execute(SQL("DELETE FROM {}").format(self.place))
            query = SQL("COPY {} ({}) FROM STDIN").format(self.name, self._columns())
            with self.session.cursor().copy(query) as rows:
                rows.write(saved)

    def disturb(self) -> None:
        """Make it differ in every way it bears: rows fewer, changed, of other keys, and more."""
        with self._as_a_replica():
            for change in self._changes():
                try:
                    with self.session.transaction():
                        self.session.execute(change)
                except psycopg.Error:
                    continue  # a key or a check does not bear this one

    def rehearse(self, rows: bytes, *, truncate: bool = False, silently: bool = False) -> Rehearsal:
        """What comes of these rows by plain statements, all undone again: DELETE or TRUNCATE, then INSERT.

        `silently`: without triggers, rules and foreign keys.
        """
        listed = self._columns()
        staging = SQL("CREATE TEMP TABLE rehearsed AS SELECT {} FROM {} WITH NO DATA").format(listed, self.name)
        load = SQL("COPY pg_temp.rehearsed ({}) FROM STDIN").format(listed)
        empty = SQL("TRUNCATE {}" if truncate else "DELETE FROM {}").format(self.name)
        insert = SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.rehearsed")
        try:
            with self.session.transaction(force_rollback=True):
                self.session.execute(staging)
                with self.session.cursor().copy(load) as copy:
                    copy.write(rows)
                self.session.execute(_AS_THE_ROLE + (_AS_A_REPLICA if silently else b""))
                self.session.execute(empty)
                written = self.session.execute(insert.format(self.name, listed, listed)).rowcount
                self.session.execute("SET CONSTRAINTS ALL IMMEDIATE")
                self.session.execute(PINNED.replace("SET ", "SET LOCAL ").encode())
                held = self.content()
        except psycopg.Error as error:
            return Rehearsal(first_line(error), [])
        staged = rows.count(b"\n")
        swallowed = f"its triggers made {written}, then {len(held)} rows of {staged}"
        return Rehearsal("" if staged == written == len(held) else swallowed, held)

    def near(self) -> dict[str, list[str]]:
        """The rows of the tables near by, which a copy is not to change."""
        found = self.session.execute(QUESTIONS["neighbours"], {"name": self.name.as_string()}).fetchall()
        return {f"{schema}.{name}": content(self.session, Identifier(schema, name)) for schema, name in found}

    def columns(self) -> list[str]:
        """What can be written."""
        return list(dict.fromkeys(name for name, *_ in self._known()))

    def _known(self) -> list[tuple[Any, ...]]:
        return self.session.execute(QUESTIONS["columns"], {"name": self.name.as_string()}).fetchall()

    def _columns(self) -> Composed:
        return SQL(", ").join(map(Identifier, self.columns()))

    @contextmanager
    def _as_a_replica(self) -> Iterator[None]:
        """A transaction in which no trigger, rule or foreign key acts: the exam's own changes have no echo."""
        with self.session.transaction():
            self.session.execute(_AS_A_REPLICA)
            yield

    def _changes(self) -> Iterator[Composed]:
        # By ctid, which is counted anew in each table and each partition.
        numbered = SQL("SELECT ctid, tableoid, row_number() OVER () AS number FROM {}").format(self.place)
        some = SQL("(ctid, tableoid) IN (SELECT ctid, tableoid FROM ({}) AS n WHERE number {})")
        yield SQL("DELETE FROM {} WHERE {}").format(self.place, some.format(numbered, SQL("% 3 = 0")))
        keyed = False
        for name, not_null, in_key, whole in self._known():
            keyed = keyed or in_key
            column = Identifier(name)
            if not not_null and not in_key:
                yield SQL("UPDATE {} SET {} = NULL WHERE {}").format(
                    self.place, column, some.format(numbered, SQL("% 2 = 0"))
                )
            if in_key and whole:
                largest = SQL("(SELECT max({}) + 1 FROM {})").format(column, self.place)
                yield SQL("UPDATE {} SET {} = {} WHERE {}").format(
                    self.place, column, largest, some.format(numbered, SQL("= 1"))
                )
        if not keyed:
            columns = self._columns()
            yield SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
                self.name, columns, columns, self.place
            )

"""A target table in the exam's own hands: read, made to differ, put back, and asked whether it bears some rows."""

from __future__ import annotations

from collections.abc import Iterator
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


def content(session: Session, name: Composable) -> list[str]:
    """Every row as the server's own text of it, in an order of our own."""
    found = session.execute(SQL("SELECT ROW(t.*)::text FROM {} AS t").format(name)).fetchall()
    return sorted(text for (text,) in found)


@dataclass(frozen=True)
class Table:
    """A table of the target. `alone` means without the rows of those that inherit from it."""

    session: Session
    name: Identifier
    oid: int
    alone: bool

    @property
    def place(self) -> Composed:
        return SQL("ONLY {}").format(self.name) if self.alone else SQL("{}").format(self.name)

    def content(self) -> list[str]:
        return content(self.session, self.place)

    def save(self) -> bytes:
        """All rows, as COPY has them."""
        query = SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(self._columns(), self.place)
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

    def bears(self, columns: list[str], rows: bytes, *, silently: bool = False) -> str:
        """Why the table itself does not bear these rows by plain DELETE and INSERT; empty where it does.

        `silently`: without triggers, rules and foreign keys.
        """
        listed = SQL(", ").join(map(Identifier, columns))
        empty = SQL("CREATE TEMP TABLE borne AS SELECT {} FROM {} WITH NO DATA").format(listed, self.name)
        insert = SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.borne")
        try:
            with self.session.transaction(force_rollback=True):
                self.session.execute(empty)
                with self.session.cursor().copy(SQL("COPY pg_temp.borne ({}) FROM STDIN").format(listed)) as copy:
                    copy.write(rows)
                self.session.execute("SET LOCAL search_path TO DEFAULT")
                if silently:
                    self.session.execute("SET LOCAL session_replication_role = replica")
                self.session.execute(SQL("DELETE FROM {}").format(self.name))
                written = self.session.execute(insert.format(self.name, listed, listed)).rowcount
                ((held,),) = self.session.execute(SQL("SELECT count(*) FROM {}").format(self.name)).fetchall()
                self.session.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except psycopg.Error as error:
            return f"{error.sqlstate} {str(error).splitlines()[0]}"
        staged = rows.count(b"\n")
        return "" if staged == written == held else f"its triggers made {written}, then {held} rows of {staged}"

    def columns(self) -> list[str]:
        """What can be written."""
        return list(dict.fromkeys(name for name, *_ in self._known()))

    def _known(self) -> list[tuple[Any, ...]]:
        return self.session.execute(QUESTIONS["columns"], {"oid": self.oid}).fetchall()

    def _columns(self) -> Composed:
        return SQL(", ").join(map(Identifier, self.columns()))

    @contextmanager
    def _as_a_replica(self) -> Iterator[None]:
        """A transaction in which no trigger, rule or foreign key acts: the exam's own changes have no echo."""
        with self.session.transaction():
            self.session.execute("SET LOCAL session_replication_role = replica")
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

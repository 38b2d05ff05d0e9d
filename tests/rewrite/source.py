"""A source that is reloaded all the time, each time with rows that prove which load they belong to, and that it is whole."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self

import psycopg

from tests.support.database import Database

SHAPE = """
CREATE SCHEMA erp;
CREATE TABLE erp.plain (id bigint PRIMARY KEY, generation bigint NOT NULL, note text);
CREATE TABLE erp.parted (id bigint PRIMARY KEY, generation bigint NOT NULL, note text) PARTITION BY RANGE (id);
CREATE TABLE erp.parted_low PARTITION OF erp.parted FOR VALUES FROM (MINVALUE) TO (200);
CREATE TABLE erp.parted_high PARTITION OF erp.parted FOR VALUES FROM (200) TO (MAXVALUE);
CREATE VIEW erp.seen AS SELECT id, generation, note FROM erp.plain;
CREATE MATERIALIZED VIEW erp.kept AS SELECT id, generation, note FROM erp.plain WITH NO DATA;
"""
TARGET = "CREATE SCHEMA dw; CREATE TABLE dw.{} (id bigint PRIMARY KEY, generation bigint NOT NULL, note text)"
RELATIONS = ("plain", "parted", "seen", "kept")
DIVISIBLE = ("plain", "parted", "kept")
_ROWS = "INSERT INTO {} SELECT n, {generation}, repeat('가', 40) FROM generate_series(1, {rows}) AS n"


def rows_of(generation: int) -> int:
    """How many rows a load has: seldom as many as the one before."""
    return 300 + generation * 37 % 400


def _rows(table: str, generation: int) -> str:
    return _ROWS.format(table, generation=generation, rows=rows_of(generation))


def _truncated(generation: int) -> str:
    return (
        f"TRUNCATE erp.plain; {_rows('erp.plain', generation)}; TRUNCATE erp.parted; {_rows('erp.parted', generation)}"
    )


def _deleted(generation: int) -> str:
    return f"DELETE FROM erp.plain; {_rows('erp.plain', generation)}; DELETE FROM erp.parted; {_rows('erp.parted', generation)}"


def _renamed(generation: int) -> str:
    """As a blue and a green table change places, and a partition is exchanged; the views follow."""
    return f"""
    DROP TABLE IF EXISTS erp.other; CREATE TABLE erp.other (LIKE erp.plain INCLUDING ALL); {_rows("erp.other", generation)};
    ALTER TABLE erp.plain RENAME TO going; ALTER TABLE erp.other RENAME TO plain; ALTER TABLE erp.going RENAME TO other;
    CREATE OR REPLACE VIEW erp.seen AS SELECT id, generation, note FROM erp.plain;
    DROP MATERIALIZED VIEW erp.kept; CREATE MATERIALIZED VIEW erp.kept AS SELECT id, generation, note FROM erp.plain WITH NO DATA;
    CREATE TABLE erp.parted_new (LIKE erp.parted INCLUDING ALL); {_rows("erp.parted_new", generation)};
    DELETE FROM erp.parted_new WHERE id < 200; DELETE FROM erp.parted_low; INSERT INTO erp.parted_low
    SELECT n, {generation}, repeat('가', 40) FROM generate_series(1, LEAST(199, {rows_of(generation)})) AS n;
    ALTER TABLE erp.parted DETACH PARTITION erp.parted_high; DROP TABLE erp.parted_high;
    ALTER TABLE erp.parted_new RENAME TO parted_high;
    ALTER TABLE erp.parted ATTACH PARTITION erp.parted_high FOR VALUES FROM (200) TO (MAXVALUE)"""


def _altered(generation: int) -> str:
    """As TRUNCATE, and the type is changed and changed back: each time all rows are written anew."""
    note = "ALTER COLUMN note TYPE varchar(90), ALTER COLUMN note TYPE text"
    change = ", ".join(note.split(", ")[:1]), ", ".join(note.split(", ")[1:])
    alter = "; ".join(f"ALTER TABLE erp.parted {each} USING note || ''" for each in change)
    return f"{_truncated(generation)}; {alter}"


RELOADS: Mapping[str, Callable[[int], str]] = {
    "truncate": _truncated,
    "delete": _deleted,
    "rename": _renamed,
    "alter": _altered,
}
_REFRESH = "REFRESH MATERIALIZED VIEW erp.kept"
_KEPT_ROWS = (
    "VACUUM (FULL) erp.plain",
    "REINDEX TABLE erp.plain",
    "CLUSTER erp.plain USING plain_pkey",
    "ANALYZE erp.parted",
)


class Reloader:
    """Reloads a source in a thread of its own, and ends what blocks it. `generation` is the last one committed."""

    def __init__(self, source: Database, dice: random.Random) -> None:
        self.generation = 0
        self.backend = 0
        self.error: BaseException | None = None
        self._source, self._dice, self._pauses = source, dice, random.Random(dice.random())
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run), threading.Thread(target=self._end_blockers)]

    def __enter__(self) -> Self:
        self._source.execute(SHAPE)
        self._load("truncate")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def is_blocked(self) -> bool:
        """Whether a reload waits for a lock."""
        return bool(self._source.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", [self.backend]))

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._dice.uniform(0, 0.3)):
                self._load(self._dice.choice(tuple(RELOADS)))
        except psycopg.Error as error:
            self.error = error

    def _load(self, way: str) -> None:
        following = self.generation + 1
        with self._source.connect() as session:
            self.backend = session.info.backend_pid
            with session.transaction():
                session.execute(RELOADS[way](following).encode())
                session.execute(_REFRESH)
            self.generation = following
            with suppress(
                psycopg.errors.WrongObjectType, psycopg.errors.UndefinedObject
            ):  # an index has changed places
                session.execute(self._dice.choice(_KEPT_ROWS).encode())

    def _end_blockers(self) -> None:
        """As a job does that must not wait: it ends the sessions in its way, a moment later."""
        ending = b"SELECT pg_terminate_backend(p) FROM unnest(pg_blocking_pids(%s)) AS p"
        with self._source.connect() as session:
            while not self._stop.wait(self._pauses.uniform(0.01, 0.15)):
                session.execute(ending, [self.backend])


def content(target: Database, table: str) -> dict[int, int]:
    """How many rows of each load a target holds."""
    return dict(target.rows(f"SELECT generation, count(*) FROM dw.{table} GROUP BY 1"))

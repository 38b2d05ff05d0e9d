"""A source whose every snapshot can be told from all others, and the one who looks at what the target shows of them."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import psycopg

from tests.support.database import Database
from tests.support.readers import State, looking

NAME = ("영업", "재고 현황")
TABLE = '"영업"."재고 현황"'
SHAPE = f"""
CREATE SCHEMA "영업";
CREATE TABLE {TABLE} ("번호" bigint PRIMARY KEY, "세대" int NOT NULL, "품목" text NOT NULL);
CREATE INDEX ON {TABLE} ("세대")
"""
# In one transaction. Rows come, go, change and move.
_CHANGE = """
DELETE FROM {table};
INSERT INTO {table} SELECT g, {generation}, '품목 ' || md5(g || '/' || {generation}) FROM generate_series(1, {rows}) g
"""
_ROWS = 1_500
_PAUSE_SECONDS = 0.002


class Generations:
    """All states the source has had, by which is known what a target may show."""

    def __init__(self, source: Database) -> None:
        self._source = source
        self.states: dict[State, int] = {}
        self.newest = 0
        self.change()

    def change(self) -> None:
        """The next generation, in every row."""
        generation = self.newest + 1
        change = _CHANGE.format(table=TABLE, generation=generation, rows=_ROWS + generation % 7)
        self._source.execute(change)
        self.states[state(self._source)] = generation
        self.newest = generation


def state(database: Database) -> State:
    """What a table holds, in one statement."""
    ((count, total),) = database.rows(looking(TABLE))
    return int(count), int(total)


class Observer:
    """Reads the whole target again and again, one statement each time, from ``with`` until its end."""

    def __init__(self, target: Database) -> None:
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.sights: list[State] = []
        """Whatever it saw, each once until it changed."""
        self.looks = 0
        self.trouble: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        try:
            with self._target.connect() as session:
                while not self._over.is_set():
                    ((count, total),) = session.execute(looking(TABLE).encode()).fetchall()
                    self.looks += 1
                    if not self.sights or self.sights[-1] != (count, int(total)):
                        self.sights.append((count, int(total)))
                    time.sleep(_PAUSE_SECONDS)
        except psycopg.Error as error:
            self.trouble.append(f"the observer could not read: {error}")


def misseen(sights: list[State], states: dict[State, int]) -> list[str]:
    """What no reader may ever see: anything but a whole snapshot of the source, or an older one after a newer."""
    found = [f"a mixture was seen: {each[0]:,} rows" for each in sights if each not in states]
    newest = 0
    for each in sights:
        generation = states.get(each, newest)
        if generation < newest:
            found.append(f"generation {generation} was seen after {newest}")
        newest = max(newest, generation)
    return found

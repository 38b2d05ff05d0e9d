"""The one who looks on: reads all targets every two milliseconds, and keeps what has changed."""

from __future__ import annotations

import signal
import time
from itertools import groupby
from typing import Any

import psycopg
from psycopg import sql

from tests.race.course import Course, table
from tests.race.report import Report

_PAUSE_SECONDS = 0.002
_BEGIN = sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_READ = sql.SQL("SELECT {}, part, token, mark::text, count(*) FROM {} GROUP BY part, token, mark")

State = dict[str, list[list[Any]]]
"""What one lock's table holds: rows of part, token, mark, and how many rows there are of them."""


def observe(course: Course, report: Report) -> None:
    """Until SIGTERM. One snapshot of all tables at a time, in one message."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    reads = [_READ.format(sql.Literal(name), table(name)) for name in course.names]
    snapshots = rows = 0
    seen: State = {}
    with course.connect() as session:
        message = sql.SQL("; ").join([_BEGIN, *reads, sql.SQL("COMMIT")]).as_bytes(session)
        while not stop:
            found = _look(session, message)
            snapshots += 1
            rows += sum(row[-1] for state in found.values() for row in state)
            for name in course.names:
                if (state := found.get(name, [])) != seen.get(name, []):
                    report.say("seen", name=name, state=state)
            seen = found
            time.sleep(_PAUSE_SECONDS)
    report.say("looked on", snapshots=snapshots, rows=rows)


def _look(session: psycopg.Connection[Any], message: bytes) -> State:
    cursor = session.execute(message)
    rows: list[tuple[Any, ...]] = []
    while cursor.nextset():
        if cursor.description:
            rows += cursor.fetchall()
    return {name: sorted([*row[1:]] for row in group) for name, group in groupby(rows, key=lambda row: row[0])}

"""What the server knows of a race: every event of a lock and every publish, with the time of its commit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import psycopg
from psycopg import sql

from tests.race.course import Course, table

OWNER_CHANGES = ("grant", "takeover-stale", "takeover-crash", "takeover-dead", "force-release", "reap")
BEGINNINGS = ("grant", "takeover-stale", "takeover-crash", "takeover-dead", "join", "supersede")
ENDS = ("supersede", "leave", "release", "revoke")

_EVENTS = """
SELECT name, token, kind, member_key, attempt::text, pg_xact_commit_timestamp(xmin)
FROM safecopy.lock_event WHERE kind <> 'refused' ORDER BY id
"""
_PUBLISHES = """
SELECT mark::text, name, token, member, attempt::text, fenced_at, pg_xact_commit_timestamp(xmin) FROM race.ledger
"""
_CONTENT = "SELECT part, token, mark::text, count(*) FROM {} GROUP BY part, token, mark ORDER BY part"


@dataclass(frozen=True)
class Happened:
    """One event of a lock's history."""

    name: str
    token: int
    kind: str
    member: str | None
    attempt: str | None
    committed_at: datetime

    def __str__(self) -> str:
        return (
            f"{self.kind} of {self.name}, token {self.token}, {self.member} {self.attempt} at {self.committed_at:%T.%f}"
        )


@dataclass(frozen=True)
class Published:
    """One publish into one table. It was going on from `fenced_at` to `committed_at`."""

    mark: str
    name: str
    token: int
    member: str
    attempt: str
    fenced_at: datetime
    committed_at: datetime

    def __str__(self) -> str:
        began, ended = f"{self.fenced_at:%T.%f}", f"{self.committed_at:%T.%f}"
        return f"publish of {self.name}, token {self.token}, {self.member} {self.attempt} from {began} to {ended}"


@dataclass(frozen=True)
class History:
    """All of a race so far, in one snapshot of the server's."""

    events: tuple[Happened, ...]
    publishes: tuple[Published, ...]
    tokens: dict[str, int]
    content: dict[str, list[list[Any]]]

    @classmethod
    def read(cls, course: Course) -> History:
        with course.connect() as session:
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            events = tuple(Happened(*row) for row in session.execute(_EVENTS))
            publishes = tuple(Published(*row) for row in session.execute(_PUBLISHES))
            tokens: dict[str, int] = dict(session.execute("SELECT name, token FROM safecopy.lock").fetchall())
            content = {name: _content(session, name) for name in course.names}
        return cls(events, tuple(sorted(publishes, key=lambda each: each.committed_at)), tokens, content)

    @cached_property
    def kinds(self) -> Counter[str]:
        return Counter(event.kind for event in self.events)

    @cached_property
    def changes(self) -> dict[str, list[Happened]]:
        """By lock, whenever the token grew."""
        return _by_name(event for event in self.events if event.kind in OWNER_CHANGES)

    @cached_property
    def tenures(self) -> dict[tuple[str, int, str], list[Happened]]:
        """By lock, token and member, what began and ended its attempts."""
        found = defaultdict(list)
        for event in sorted(self.events, key=lambda each: each.committed_at):
            if event.member is not None and event.kind in {*BEGINNINGS, *ENDS}:
                found[event.name, event.token, event.member].append(event)
        return found


def _by_name(events: Iterable[Happened]) -> dict[str, list[Happened]]:
    found = defaultdict(list)
    for event in sorted(events, key=lambda each: each.token):
        found[event.name].append(event)
    return found


def _content(session: psycopg.Connection[Any], name: str) -> list[list[Any]]:
    return [[*row] for row in session.execute(sql.SQL(_CONTENT).format(table(name)))]

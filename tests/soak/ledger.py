"""What the target's own books say of all runs: its locks' history and its receipts, as the race's judge reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from tests.race import check
from tests.race.history import _EVENTS, Happened, History, Published
from tests.support.database import Database

# `published_at` is when the receipt was written, inside the transaction: after the fence, before the COMMIT.
_RECEIPTS = """
SELECT r.attempt::text, r.lock, r.token, COALESCE((SELECT e.member_key FROM safecopy.lock_event e
       WHERE e.name = r.lock AND e.token = r.token AND e.attempt = r.attempt AND e.member_key IS NOT NULL
       ORDER BY e.id LIMIT 1), 'never granted'),
       r.attempt::text, r.published_at, pg_xact_commit_timestamp(r.xmin)
FROM safecopy.receipt r
"""
_OWNERS = "SELECT owner_key, token, attempt::text FROM safecopy.receipt"


def read(target: Database) -> History:
    """All of it, in one snapshot."""
    with target.connect() as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        events = tuple(Happened(*row) for row in session.execute(_EVENTS))
        publishes = tuple(Published(*row) for row in session.execute(_RECEIPTS.encode()))
        tokens: dict[str, int] = dict(session.execute("SELECT name, token FROM safecopy.lock").fetchall())
    return History(events, tuple(sorted(publishes, key=lambda each: each.committed_at)), tokens, {})


def violations(history: History) -> Iterator[str]:
    """By the race's judge; and receipts that are not in the order of their tokens."""
    yield from map(str, check.history(history))
    for former, latter in pairwise(history.publishes):
        if former.name == latter.name and former.token > latter.token:
            yield f"{latter}\n      was committed after {former}"


def receipts(target: Database) -> dict[str, list[tuple[int, str]]]:
    """By owner, the token and attempt of each of its publishes."""
    found: dict[str, list[tuple[int, str]]] = {}
    for owner, token, attempt in target.rows(_OWNERS):
        found.setdefault(owner, []).append((token, attempt))
    return found


def counted(history: History, kinds: Iterable[str]) -> Counter[str]:
    return Counter({kind: history.kinds[kind] for kind in kinds})


def untrue(owner: str, code: int, told: Any, published: list[tuple[int, str]]) -> str:
    """Where a command's word and its receipts part ways; empty where they agree."""
    if code == 0 and told["status"] == "published":
        wanted = [(told["token"], told["attempt"])]
        return "" if published == wanted else f"{owner} said {wanted}, its receipts are {published}"
    if code >= 0 and code != 7 and published:
        return f"{owner} ended with exit code {code}, and has receipts: {published}"
    return ""

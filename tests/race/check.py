"""The judge: what must never have happened in a race, found in what the server, the observer and the racers know.

C1   a publish committed after its owner's successor was granted, or without a grant of its own
C1b  … after its own attempt was superseded or revoked, or had left
C2   a token that did not grow by one with a change of owner, or went back
C3   publishes of two owners, or of two attempts of one task, that overlap or are out of order
C4   a publish its client was told of, and that is not there
C5   a mixture, a part of a publish or an older content, seen by a reader
C6   a content that is not the last publish
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from tests.race.course import ROWS
from tests.race.history import BEGINNINGS, ENDS, OWNER_CHANGES, Happened, History, Published


@dataclass(frozen=True)
class Violation:
    """One thing that must not happen, and did."""

    check: str
    what: str

    def __str__(self) -> str:
        return f"{self.check}: {self.what}"


def history(history: History) -> list[Violation]:
    """What the server's history alone shows, while the race goes on as well as afterwards."""
    return [*late(history), *superseded(history), *tokens(history), *overlaps(history)]


def late(history: History) -> Iterator[Violation]:
    successors = {(event.name, event.token - 1): event for events in history.changes.values() for event in events}
    for publish in history.publishes:
        successor = successors.get((publish.name, publish.token))
        if successor and publish.committed_at > successor.committed_at:
            yield Violation("C1", f"{publish}\n      committed after {successor}")


def superseded(history: History) -> Iterator[Violation]:
    for publish in history.publishes:
        events = history.tenures.get((publish.name, publish.token, publish.member), [])
        # An attempt that did not get all the locks it wanted gives back what it had, and asks again.
        mine = [at for at, event in enumerate(events) if _began(event, publish)]
        if not mine:
            yield Violation("C1", f"{publish}\n      was granted nothing before")
            continue
        end = next((event for event in events[mine[-1] + 1 :] if event.kind in ENDS), None)
        if end and publish.committed_at > end.committed_at:
            yield Violation("C1b", f"{publish}\n      committed after {end}")


def _began(event: Happened, publish: Published) -> bool:
    mine = event.attempt == publish.attempt and event.kind in BEGINNINGS
    return mine and event.committed_at <= publish.fenced_at


def tokens(history: History) -> Iterator[Violation]:
    for name, events in history.changes.items():
        given = [event.token for event in events]
        if given != list(range(1, len(given) + 1)) or history.tokens[name] != len(given):
            yield Violation("C2", f"{name}: tokens {given[-20:]}, the lock's own is {history.tokens[name]}")
        for former, latter in pairwise(events):
            if former.committed_at > latter.committed_at:
                yield Violation("C2", f"{former}\n      committed after {latter}")
    yield from _out_of_turn(history)


def _out_of_turn(history: History) -> Iterator[Violation]:
    began = {(event.name, event.token): event for events in history.changes.values() for event in events}
    for event in history.events:
        if event.kind in OWNER_CHANGES:
            continue
        now, then = began.get((event.name, event.token)), began.get((event.name, event.token + 1))
        if now is None or event.committed_at < now.committed_at or (then and event.committed_at > then.committed_at):
            yield Violation("C2", f"{event}\n      is not between {now} and {then}")


def overlaps(history: History) -> Iterator[Violation]:
    yield from _overlapping(history.publishes, by=lambda each: each.name, rank=lambda each: each.token)
    order = _attempts(history)
    yield from _overlapping(
        (each for each in history.publishes if (each.name, each.token, each.attempt) in order),
        by=lambda each: (each.name, each.token, each.member),
        rank=lambda each: order[each.name, each.token, each.attempt],
    )


def _attempts(history: History) -> dict[tuple[str, int, str | None], int]:
    """Of each attempt, the how-manieth of its member it was, when it came last: only then did it publish."""
    return {
        (event.name, event.token, event.attempt): at
        for events in history.tenures.values()
        for at, event in enumerate(events)
        if event.kind in BEGINNINGS
    }


def _overlapping(
    publishes: Iterable[Published], by: Callable[[Published], Hashable], rank: Callable[[Published], int]
) -> Iterator[Violation]:
    """Publishes that had begun before every one of a lower rank was committed."""
    groups: dict[Hashable, dict[int, list[Published]]] = defaultdict(lambda: defaultdict(list))
    for publish in publishes:
        groups[by(publish)][rank(publish)].append(publish)
    for group in groups.values():
        last: Published | None = None
        for _, equals in sorted(group.items()):
            for publish in equals:
                if last and publish.fenced_at < last.committed_at:
                    yield Violation("C3", f"{publish}\n      had begun before {last}")
            last = max([*equals, *([last] if last else [])], key=lambda each: each.committed_at)


def acknowledged(history: History, marks: Iterable[str]) -> Iterator[Violation]:
    there = {publish.mark for publish in history.publishes}
    for mark in marks:
        if mark not in there:
            yield Violation("C4", f"publish {mark} was acknowledged, and is not there")


def seen(history: History, sights: Iterable[tuple[str, list[list[Any]]]]) -> Iterator[Violation]:
    """`sights` are a lock and its table's content, whenever that changed, in order of time."""
    committed = {(each.mark, each.name): each for each in history.publishes}
    newest: dict[str, int] = {}
    before: dict[tuple[str, str], tuple[str, datetime]] = {}
    for name, state in sights:
        if wrong := _mixed(name, state, {part for lock, part in before if lock == name}):
            yield Violation("C5", f"{name}: {wrong}: {state}")
            continue
        for part, token, mark, _ in state:
            publish, former = committed.get((mark, name)), before.get((name, part))
            if publish is None:
                yield Violation("C5", f"{name}: {mark} was seen, and never published")
                continue
            if former and former[0] != mark and (token < newest[name] or publish.committed_at < former[1]):
                yield Violation("C5", f"{publish}\n      was seen after token {newest[name]}, {former}")
            before[name, part] = mark, publish.committed_at
            newest[name] = max(newest.get(name, 0), token)


def _mixed(name: str, state: list[list[Any]], known: set[str]) -> str:
    parts = [part for part, *_ in state]
    if len(parts) != len(set(parts)):
        return "a mixture"
    if any(count != ROWS for *_, count in state):
        return "a part of a publish"
    return "nothing at all of what was there" if known - set(parts) else ""


def last(history: History) -> Iterator[Violation]:
    newest = {(each.name, each.member): each for each in history.publishes}  # in order of commit
    for name, content in history.content.items():
        wanted = [[part, each.token, each.mark, ROWS] for (lock, part), each in sorted(newest.items()) if lock == name]
        if sorted(content) != wanted:
            yield Violation("C6", f"{name} holds {content}, the last publishes are {wanted}")

"""A fingerprint of all that hangs on a table, by names: equal before and after a publish, or something was lost.

Asked in SQL of its own, so that what the package forgets is not forgotten here too. What a publish is there to
change is not in it: rows, files on disk, values of sequences (see `sequence_values`), what ANALYZE found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from tests.support.database import Database

Facts = Mapping[str, Any]

_NAMED = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
_QUESTIONS: dict[str, bytes] = {
    name: text.encode() for name, text in _NAMED.findall(Path(__file__).with_suffix(".sql").read_text("utf-8"))
}
_OF_THEIR_OWN = {"hung", "analyzed", "sequences"}
_SHOWN = 300


@dataclass(frozen=True)
class Fingerprint:
    """Objects and their facts, all by name. Two are equal only when nothing was lost, changed or added.

    `analyzed` are the columns and extended statistics that ANALYZE has looked at: more of them are no difference.
    """

    objects: Mapping[str, Facts]
    analyzed: frozenset[str] = field(compare=False)


def fingerprint(database: Database, schema: str, table: str) -> Fingerprint:
    """The fingerprint of a table, its partitions, its sequences and the views upon it. Asked as the superuser."""
    with database.connect() as session:
        return look(session, schema, table)


def look(session: psycopg.Connection[Any], schema: str, table: str, *, alone: bool = False) -> Fingerprint:
    """As `fingerprint`, in a session: of what its transaction sees, whose search_path is then pg_catalog.

    `alone`: of the table and what hangs on it, and not of what else there is in the database, see `present`.
    """
    with session.transaction():
        hung = _hung(session, schema, table)
        objects: dict[str, Facts] = {}
        for name in _QUESTIONS.keys() - _OF_THEIR_OWN - ({"present"} if alone else set()):
            for thing, facts in session.execute(_QUESTIONS[name], {"hung": hung}):
                assert thing is not None, f"{name}: something has no name"
                assert thing not in objects, f"{thing} was met twice"
                objects[thing] = facts
        analyzed = session.execute(_QUESTIONS["analyzed"], {"hung": hung}).fetchall()
    return Fingerprint(objects, frozenset(name for (name,) in analyzed))


def present(session: psycopg.Connection[Any]) -> Fingerprint:
    """That part of a fingerprint which is of the whole database: all that there is in it."""
    return Fingerprint(dict(session.execute(_QUESTIONS["present"]).fetchall()), frozenset())


def differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """What was lost, changed or added between the two, in words; empty when nothing was."""
    found: list[str] = []
    for thing in sorted(before.objects.keys() | after.objects.keys()):
        old, new = before.objects.get(thing), after.objects.get(thing)
        if new is None:
            found.append(f"lost: {thing} {_shown(old)}")
        elif old is None:
            found.append(f"new: {thing} {_shown(new)}")
        else:
            found += [f"changed: {thing}: {each}" for each in _changes(old, new)]
    return found + [f"not analyzed any more: {each}" for each in sorted(before.analyzed - after.analyzed)]


def sequence_values(database: Database, schema: str, table: str) -> dict[str, tuple[int, bool]]:
    """`last_value` and `is_called` of each sequence that the table owns or draws from, by name."""
    values = {}
    with database.connect() as session, session.transaction():
        hung = _hung(session, schema, table)
        for schema_, name, label in session.execute(_QUESTIONS["sequences"], {"hung": hung}).fetchall():
            asked = SQL("SELECT last_value, is_called FROM {}").format(Identifier(schema_, name))
            ((last, called),) = session.execute(asked).fetchall()
            values[label] = (last, called)
    return values


def _hung(session: psycopg.Connection[Any], schema: str, table: str) -> list[int]:
    """The OIDs of the table and of what hangs on it. They serve to ask and are never part of the answer."""
    session.execute("SET LOCAL search_path = pg_catalog")
    found = session.execute(_QUESTIONS["hung"], {"schema": schema, "table": table}).fetchall()
    assert found, f"there is no {schema}.{table}"
    return [oid for (oid,) in found]


def _changes(old: Facts, new: Facts) -> Iterator[str]:
    for fact in old.keys() | new.keys():
        was, now = old.get(fact), new.get(fact)
        if was == now:
            continue
        if isinstance(was, list) and isinstance(now, list) and sorted(set(was) ^ set(now)):
            gone, come = [each for each in was if each not in now], [each for each in now if each not in was]
            yield f"{fact}: lost {gone}, new {come}"
        else:
            yield f"{fact} was {was!r}, is {now!r}"


def _shown(facts: Facts | None) -> str:
    told = ", ".join(f"{name}: {value}" for name, value in sorted((facts or {}).items()) if value not in (None, "", []))
    return f"({told[:_SHOWN]}…)" if len(told) > _SHOWN else f"({told})"

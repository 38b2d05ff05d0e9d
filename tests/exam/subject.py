"""What the exam asks about: the relations of a loaded suite."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import Identifier

_NAMED = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
QUESTIONS: dict[str, bytes] = {
    name: text.encode() for name, text in _NAMED.findall(Path(__file__).with_name("subjects.sql").read_text("utf-8"))
}
KINDS = {"r": "tables", "p": "partitioned tables", "v": "views", "m": "materialized views", "f": "foreign tables"}


@dataclass(frozen=True)
class Subject:
    """One relation, as it is in the target.

    `shape` is equal for relations that have the same sorts of things, whatever their names, numbers and types.
    """

    oid: int
    schema: str
    name: str
    kind: str
    has_children: bool
    shape: str
    types: Sequence[str]

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> Identifier:
        return Identifier(self.schema, self.name)

    @property
    def is_table(self) -> bool:
        return self.kind in "rp"


def subjects(conninfo: str) -> list[Subject]:
    with psycopg.connect(conninfo) as session:
        found = session.execute(QUESTIONS["subjects"]).fetchall()
    return [Subject(*row) for row in found]


def one_of_each_shape(found: Iterable[Subject]) -> list[Subject]:
    """As many as it takes to meet every shape, and every type. The rest ask the same once more."""
    kept: list[Subject] = []
    shapes: set[str] = set()
    types: set[str] = set()
    for subject in found:
        if subject.shape not in shapes or not types.issuperset(subject.types):
            kept.append(subject)
            shapes.add(subject.shape)
            types.update(subject.types)
    return kept


def families(conninfo: str, chosen: Sequence[Subject]) -> list[list[Subject]]:
    """The subjects in groups that have nothing to do with each other, the largest first."""
    with psycopg.connect(conninfo) as session:
        ties: list[tuple[Any, ...]] = session.execute(QUESTIONS["ties"]).fetchall()
    near: dict[int, set[int]] = defaultdict(set)
    for one, other in ties:
        if min(one, other) >= 16384:  # what hangs on the catalog alone is not related by that
            near[one].add(other)
            near[other].add(one)
    heads: dict[int, int] = {}
    for subject in chosen:
        _spread(subject.oid, near, heads)
    groups: dict[int, list[Subject]] = defaultdict(list)
    for subject in chosen:
        groups[heads[subject.oid]].append(subject)
    return sorted(groups.values(), key=len, reverse=True)


def _spread(start: int, near: dict[int, set[int]], heads: dict[int, int]) -> None:
    waiting = [start]
    while waiting:
        each = waiting.pop()
        if heads.setdefault(each, start) == start:
            waiting += [other for other in near[each] if other not in heads]

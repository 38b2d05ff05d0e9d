"""The cursor: a column whose values grow with every change, by which an incremental copy knows what is new."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer.catalog import Column
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.name import spell

_TYPMOD = re.compile(r"\(\d+(?:,-?\d+)?\)")


@dataclass(frozen=True)
class Kind:
    """A type that can be a cursor's: what its lookback is given in, and its least value where counting back could miss it."""

    type: LiteralString
    span: LiteralString
    sample: str
    least: str | None = None


# Types whose order is the same on every server. Not text: its order hangs on the collation, which differs between two
# servers and changes with the system's libraries. Not floating point: two servers need not agree on a value.
_KINDS: Mapping[str, Kind] = {
    kind.type: kind
    for kind in (
        Kind("smallint", "numeric", "0", str(-(1 << 15))),
        Kind("integer", "numeric", "0", str(-(1 << 31))),
        Kind("bigint", "numeric", "0", str(-(1 << 63))),
        Kind("numeric", "numeric", "0"),
        Kind("date", "interval", "2026-01-01"),
        Kind("timestamp without time zone", "interval", "2026-01-01"),
        Kind("timestamp with time zone", "interval", "2026-01-01"),
    )
}


@dataclass(frozen=True)
class Cursor:
    """The cursor of one copy: its column in the source and in the target, and what it is."""

    column: str
    target_column: str
    kind: Kind
    nullable: bool


def kind_of(type_: str) -> Kind | None:
    """What a type is as a cursor; None where it can be none."""
    return _KINDS.get(_TYPMOD.sub("", type_))


def cursor_of(name: str, pairs: Sequence[tuple[Column, Column]]) -> Finding[Cursor | None]:
    """Return the cursor called `name` in the source, or None and why not."""
    pair = next(((given, taken) for given, taken in pairs if given.name == name), None)
    if pair is None:
        missing = Refusal(
            "cursor_missing",
            f"cursor_column {spell(name)} is not among the columns that are copied",
            column=spell(name),
            hint="copy it too: the watermark is the greatest value that has arrived",
        )
        return Finding(None, (missing,))
    given, taken = pair
    kind = kind_of(given.type)
    if kind is None:
        return Finding(None, (_of_type(given),))
    return Finding(Cursor(given.name, taken.name, kind, nullable=not given.not_null))


def _of_type(column: Column) -> Refusal:
    return Refusal(
        "cursor_type",
        f"cursor_column {spell(column.name)} is {column.type}, whose order is not the same everywhere",
        column=spell(column.name),
        hint=f"use a column of one of the types {', '.join(_KINDS)}, or cast it in source_sql",
    )

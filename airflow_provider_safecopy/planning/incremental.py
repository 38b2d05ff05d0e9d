"""Incremental copies: the cursor, and the read range that follows from the watermark.

The values of a cursor grow with every change of a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.planning.catalog import Column
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.postgres.names import spell
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec

_TYPMOD = re.compile(r"\(\d+(?:,-?\d+)?\)")


@dataclass(frozen=True)
class Kind:
    """A type that a cursor can have.

    `span` is the type of its lookback, `sample` a value of it, `least` its least value where counting back could pass
    it.
    """

    type: LiteralString
    span: LiteralString
    sample: str
    least: str | None = None


# Types whose order is the same on every server. Not text: its order depends on the collation, which differs between two
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
    """The cursor of one copy: its column in the source and in the target, and its kind."""

    column: str
    target_column: str
    kind: Kind
    nullable: bool


def kind_of(type_: str) -> Kind | None:
    """Return the cursor kind of a type; None if no cursor can have it."""
    # A precision does not change the order of values.
    return _KINDS.get(_TYPMOD.sub("", type_))


def cursor_of(name: str, pairs: Sequence[tuple[Column, Column]]) -> Finding[Cursor | None]:
    """Return the cursor whose column in the source is `name`; None with a refusal."""
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


# A time of day with its offset, as Airflow spells moments. Without the time of day, the end of a date looks like an
# offset.
_ZONED = re.compile(r"\d:\d\d(?::\d\d(?:\.\d+)?)?\s*(?:Z|[+-]\d\d(?::?\d\d)?)$")


Lookbacks = frozenset[tuple[str, str]]
"""Pairs of a cursor type and a lookback that the source can count back by in it."""


@dataclass(frozen=True)
class ReadRange:
    """Rows whose cursor is at least `start` and less than `end`, and rows without a cursor.

    `start` or `end` None is no bound. Rows whose cursor is NULL are read each time, because it is not known whether
    they have been read. `follows`: nothing lies unread between the watermark and `start`, so the watermark may be moved
    to what arrives.
    """

    cursor: Cursor
    start: str | None = None
    end: str | None = None
    follows: bool = True

    def condition(self) -> Composed | None:
        """Return the condition as SQL, with the values in the cursor's own type.

        None if all rows are read.
        """
        cursor = self.cursor
        return copy_script.match_range(
            cursor.column, cursor.kind.type, start=self.start, end=self.end, nulls=cursor.nullable
        )

    def __str__(self) -> str:
        if self.start is None and self.end is None:
            return "of everything"
        limits = ((self.start, "from"), (self.end, "up to"))
        told = " ".join(f"{word} {value}" for value, word in limits if value is not None)
        return told + (", and rows without a cursor" if self.cursor.nullable else "")


def bounds_of(
    spec: CopySpec, source: Session, cursor: Cursor, mark: str | None, computed: Lookbacks = frozenset()
) -> Finding[ReadRange]:
    """Return the read range for the watermark `mark`, with one reason.

    An interval or a lookback that the source cannot compute is refused. A lookback of a copy without a watermark is
    checked all the same, unless it is among those that the source has `computed` already.
    """
    if spec.interval_start is not None and spec.interval_end is not None:
        return _interval(source, cursor, (spec.interval_start, spec.interval_end), mark)
    lookback = spec.lookback
    known = mark is None and (cursor.kind.type, lookback) in computed
    start = Finding(mark) if lookback is None or known else _back(source, cursor, mark, lookback)
    if mark is None:
        return Finding(ReadRange(cursor), start.refusals, ("no watermark yet",))
    why = f"the watermark {mark}" + (f" less {lookback}" if lookback else "")
    return Finding(ReadRange(cursor, start.value), start.refusals, (why,))


def is_value(source: Session, cursor: Cursor, text: str) -> bool:
    """Return whether the source can read `text` as the cursor's type."""
    try:
        _compute_row(source, copy_script.read_value(cursor.kind.type, text))
    except (psycopg.DataError, UnicodeEncodeError):
        # UnicodeEncodeError: letters that the source's encoding lacks are in no value of it.
        return False
    return True


def zone_warnings(spec: CopySpec, cursor: Cursor) -> tuple[str, ...]:
    """Return a warning if an interval has a time zone and the cursor has none."""
    ends = (spec.interval_start or "", spec.interval_end or "")
    if (
        cursor.kind.span != "interval"
        or cursor.kind.type.endswith("with time zone")
        or not any(map(_ZONED.search, ends))
    ):
        return ()
    told = f"{' and '.join(ends)} have a time zone, and {spell(cursor.column)} ({cursor.kind.type}) has none: it is ignored"
    return (told,)


def _interval(source: Session, cursor: Cursor, asked: tuple[str, str], mark: str | None) -> Finding[ReadRange]:
    kind = cursor.kind
    try:
        found = _compute_row(source, copy_script.read_interval(kind.type, *asked, mark))
    except psycopg.DataError as error:
        hint = f"both ends must be of the cursor's type, {kind.type}"
        return Finding(
            ReadRange(cursor), (Refusal("bad_interval", f"interval: {str(error).strip()}", hint=hint),), ("",)
        )
    refusals: tuple[Refusal, ...] = ()
    if not found["ordered"]:
        message = f"interval_start {asked[0]} is not before interval_end {asked[1]}: no row could lie between them"
        hint = f"as {kind.type} they are {found['start']} and {found['end']}"
        refusals = (Refusal("bad_interval", message, hint=hint),)
    told = "an interval was asked for" + ("" if mark is None else f"; the watermark is {mark}")
    return Finding(ReadRange(cursor, found["start"], found["end"], follows=bool(found["follows"])), refusals, (told,))


def _back(source: Session, cursor: Cursor, mark: str | None, lookback: str) -> Finding[str | None]:
    """Return the watermark less `lookback`; None without a watermark."""
    kind = cursor.kind
    # A sample stands for the watermark that a first run does not have: its second run is too late to refuse a lookback.
    query = copy_script.count_back(kind.type, mark or kind.sample, lookback, span=kind.span, least=kind.least)
    unit = "a number" if kind.span == "numeric" else "an interval such as '2 days'"
    try:
        found = _compute_row(source, query)
    except psycopg.DataError as error:
        refusal = Refusal("bad_lookback", f"lookback: {str(error).strip()}", hint=f"it counts back in {unit}")
        return Finding(None, (refusal,))
    refusals: tuple[Refusal, ...] = ()
    if not found["ordered"]:
        message = f"lookback {lookback} would look ahead of the watermark"
        refusals = (Refusal("bad_lookback", message, hint=f"give {unit}, without a minus"),)
    return Finding(None if mark is None else str(found["start"]), refusals)


def _compute_row(source: Session, query: Composed) -> dict[str, Any]:
    """Return the one row that the source computes.

    Raises psycopg's `DataError` for what cannot be read as the cursor's type.
    """
    with source.run_user_sql():
        row = source.fetch_one(query)
    assert row is not None  # noqa: S101 -- a SELECT without FROM has one row
    return row

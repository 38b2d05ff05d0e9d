"""The bounds of an incremental copy: values are spelled, compared and counted back from by the server, in the cursor's type."""

from __future__ import annotations

from typing import LiteralString

from psycopg.sql import SQL, Composed, Identifier, Literal

from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.statements.rows import table

# What tells values apart that are greater than all others, and say nothing of how far one has come.
_ENDLESS: dict[str, LiteralString] = {
    "numeric": "{} NOT IN ('NaN', 'Infinity', '-Infinity')",
    "date": "isfinite({})",
    "timestamp without time zone": "isfinite({})",
    "timestamp with time zone": "isfinite({})",
}


def match_range(
    column: str, type_: LiteralString, *, start: str | None, end: str | None, nulls: bool
) -> Composed | None:
    """Whether a row lies from `start` up to but not including `end`; with `nulls` also one whose cursor is NULL."""
    sides = [
        SQL("{} {} {}").format(Identifier(column), SQL(operator), _value(value, type_))
        for operator, value in ((">=", start), ("<", end))
        if value is not None
    ]
    if not sides:
        return None
    inside = SQL(" AND ").join(sides)
    return SQL("{} OR {} IS NULL").format(inside, Identifier(column)) if nulls else inside


def read_interval(type_: LiteralString, start: str, end: str, mark: str | None) -> Composed:
    """Both ends as the server spells them, whether they are in order, and whether `mark` leaves no gap before them."""
    first, last = _value(start, type_), _value(end, type_)
    follows = SQL("{} <= {}").format(first, _value(mark, type_)) if mark is not None else SQL("false")
    return SQL('SELECT ({0})::text AS "start", ({1})::text AS "end", {0} < {1} AS ordered, {2} AS follows').format(
        first, last, follows
    )


def read_value(type_: LiteralString, text: str) -> Composed:
    """The value as the server spells it."""
    return SQL("SELECT ({})::text").format(_value(text, type_))


def count_back(type_: LiteralString, mark: str, lookback: str, *, span: LiteralString, least: str | None) -> Composed:
    """`mark` less `lookback`, in the cursor's type, and whether that is not beyond it.

    `span` is the type of `lookback`, `least` the cursor type's least value.
    """
    value = _value(mark, type_)
    if span == "interval":
        start = SQL("({} - {})::{}").format(value, _value(lookback, span), SQL(type_))
    else:
        start = SQL("{}::numeric - {}").format(value, _value(lookback, span))
        if least is not None:
            start = SQL("GREATEST(floor({}), {})").format(start, _value(least, "numeric"))
    return SQL('SELECT ({0})::text AS "start", {0} <= {1} AS ordered').format(start, value)


def read_greatest(staging: TableName, column: str, type_: LiteralString, mark: str | None) -> Composed:
    """The greatest cursor in staging that has an end, whether it lies `beyond` the mark, and whether it is `behind` it."""
    has_end = SQL(_ENDLESS.get(type_, "true")).format(Identifier(column))
    greatest = SQL("max({}) FILTER (WHERE {})").format(Identifier(column), has_end)
    found = SQL("SELECT ({})::{} AS found FROM {}").format(greatest, SQL(type_), table(staging))
    value = None if mark is None else _value(mark, type_)
    beyond = SQL("found IS NOT NULL") if value is None else SQL("COALESCE(found > {}, false)").format(value)
    behind = SQL("false") if value is None else SQL("COALESCE(found < {}, true)").format(value)
    told = SQL("SELECT found::text AS value, {} AS beyond, {} AS behind FROM ({}) AS staged")
    return told.format(beyond, behind, found)


def _value(text: str, type_: LiteralString) -> Composed:
    return SQL("{}::{}").format(Literal(text), SQL(type_))

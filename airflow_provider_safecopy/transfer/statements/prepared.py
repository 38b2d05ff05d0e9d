"""Questions the server is to keep a plan for. They live as long as the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

from psycopg.sql import SQL, Composed, Identifier, Literal

from airflow_provider_safecopy.transfer.statements.rows import verbatim


def prepare(name: str, query: str, types: Sequence[LiteralString] = ()) -> Composed:
    """Keep `query`, which has its parameters in it, or ``$1`` and so on of these `types` in their places."""
    given = SQL(" ({})").format(SQL(", ").join(map(SQL, types))) if types else SQL("")
    return SQL("PREPARE {}{} AS {}").format(Identifier(name), given, verbatim(query))


def type_of(value: object) -> LiteralString:
    """What the server is told of a parameter, as psycopg would tell it: of a text nothing, so that it looks around."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int4" if -(2**31) <= value < 2**31 else "int8"
    return "uuid" if isinstance(value, UUID) else "unknown"


def execute(name: str, values: Sequence[Any] = ()) -> Composed:
    """Ask it, with the `values` of its parameters, if it has any."""
    given = SQL(" ({})").format(SQL(", ").join(map(Literal, values))) if values else SQL("")
    return SQL("EXECUTE {}{}").format(Identifier(name), given)


def first(name: str, query: str, values: Sequence[Any] = ()) -> Composed:
    """Keep it and ask it, in one message."""
    return SQL("{}; {}").format(prepare(name, query), execute(name, values))

"""Questions the server is to keep a plan for. They live as long as the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.sql import SQL, Composed, Identifier, Literal

from airflow_provider_safecopy.transfer.statements.rows import verbatim


def prepare(name: str, query: str) -> Composed:
    """Keep `query`, which has its parameters in it, or ``$1`` and so on in their places."""
    return SQL("PREPARE {} AS {}").format(Identifier(name), verbatim(query))


def execute(name: str, values: Sequence[Any] = ()) -> Composed:
    """Ask it, with the `values` of its parameters, if it has any."""
    given = SQL(" ({})").format(SQL(", ").join(map(Literal, values))) if values else SQL("")
    return SQL("EXECUTE {}{}").format(Identifier(name), given)


def first(name: str, query: str, values: Sequence[Any] = ()) -> Composed:
    """Keep it and ask it, in one message."""
    return SQL("{}; {}").format(prepare(name, query), execute(name, values))

"""Questions the server is to keep a plan for. They live as long as the session: forget them in the same transaction."""

from __future__ import annotations

from typing import LiteralString

from psycopg.sql import SQL, Composed, Identifier

from airflow_provider_safecopy.transfer.statements.rows import verbatim

FORGET: LiteralString = "DEALLOCATE ALL"


def prepare(name: str, query: str) -> Composed:
    """Keep `query`, which has its parameters in it."""
    return SQL("PREPARE {} AS {}").format(Identifier(name), verbatim(query))


def execute(name: str) -> Composed:
    """Ask it."""
    return SQL("EXECUTE {}").format(Identifier(name))

"""Spelling: whether a server's encoding has the letters of an identifier, and how many bytes they take there."""

from __future__ import annotations

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.session import Session

_CATALOG = sql.load("catalog")


def check_spelling(session: Session, *texts: str) -> tuple[bool, ...]:
    """Return whether the server can spell each of the texts."""
    return tuple(count_bytes(session, text) is not None for text in texts)


def count_bytes(session: Session, identifier: str) -> int | None:
    """Return how many bytes the identifier has in the server's encoding; None if it cannot be spelled there."""
    if session.server.encoding == "UTF8" or identifier.isascii():
        return len(identifier.encode())
    try:
        with session.connection.transaction():
            length: int = session.fetch_value(_CATALOG["spelling"], {"name": identifier})
    except (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire):
        return None
    return length

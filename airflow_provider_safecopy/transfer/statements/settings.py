"""Settings that decide what bytes, literals and names mean: pinned in every session, and checked.

Any code that runs on a server may change them: a function in a view, a default, a check. So they are pinned before each
COPY and each query that runs such SQL, and checked after it. All names are spelled with their schema, since
`search_path` is one of them.
"""

from __future__ import annotations

from typing import LiteralString

from psycopg.sql import SQL, Composed, Identifier, Literal

from airflow_provider_safecopy.transfer.statements.rows import set_local, together

MEANINGS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("quote_all_identifiers", "off"),  # first: a search_path set under it is stored with quotes
    ("search_path", "pg_catalog"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("array_nulls", "on"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("row_security", "off"),
    ("standard_conforming_strings", "on"),
)
"""The settings that change rows on their way out or in, as found by a test that tries every setting."""

# Settings that change which rows a condition finds, or what a user's expression gives: as database and role have them.
_OWN: tuple[LiteralString, ...] = (
    "transform_null_equals",
    "gin_fuzzy_search_limit",
    "default_text_search_config",
    "timezone_abbreviations",
    "lc_numeric",
    "lc_time",
    "xmlbinary",
)


def pins() -> tuple[Composed, ...]:
    """Pin them for the rest of the transaction."""
    own = (SQL("SET LOCAL {} TO DEFAULT").format(SQL(name)) for name in _OWN)
    return (*(set_local(name, value) for name, value in MEANINGS), *own)


def session_pins() -> tuple[Composed, ...]:
    """Pin them until the session ends."""
    return tuple(SQL("SET {} TO {}").format(SQL(name), Literal(value)) for name, value in MEANINGS)


def select_changed(*, but: tuple[str, ...] = ()) -> Composed:
    """Ask which settings differ from the pinned values: their names as one text, or empty."""
    each = (
        SQL("CASE WHEN pg_catalog.current_setting({0}) OPERATOR(pg_catalog.<>) {1} THEN {0} END").format(
            Literal(name), Literal(value)
        )
        for name, value in MEANINGS
        if name not in but
    )
    return SQL("SELECT pg_catalog.concat_ws(', ', {}) AS safecopy_changed").format(SQL(", ").join(each))


def begin_reading(savepoint: str | None) -> Composed:
    """Begin a block that cannot write, with all settings pinned: a transaction or a savepoint."""
    begin = SQL("BEGIN READ ONLY") if savepoint is None else SQL("SAVEPOINT {}").format(Identifier(savepoint))
    return together([begin, *pins()])


def end_reading(savepoint: str | None, *, keeps_locks: bool = True) -> Composed:
    """Ask which settings changed, and restore them. Without `keeps_locks` all others are restored as well."""
    if savepoint is None:
        return together([select_changed(), SQL("ROLLBACK"), *session_pins()])
    if not keeps_locks:
        return SQL("{}; {}").format(select_changed(), undo_reading(savepoint))
    return together([select_changed(), SQL("RELEASE SAVEPOINT {}").format(Identifier(savepoint)), *pins()])


def undo_reading(savepoint: str | None) -> Composed:
    """Roll back a block that has failed."""
    if savepoint is None:
        return together([SQL("ROLLBACK"), *session_pins()])
    name = Identifier(savepoint)
    return SQL("ROLLBACK TO SAVEPOINT {0}; RELEASE SAVEPOINT {0}").format(name)

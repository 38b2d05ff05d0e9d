"""Statements for any package: on a table and its rows, prepared ones, and those that pin settings.

Any code that runs on a server may change settings: a function in a view, a default, a check. So they are pinned before
each COPY and each query that runs such SQL, and checked after it. All names are spelled with their schema, since
`search_path` is such a setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from airflow_provider_safecopy.postgres.names import TableName


def table(name: TableName) -> Composable:
    """Return a table's name, quoted."""
    return Identifier(name.schema, name.name) if name.schema is not None else Identifier(name.name)


def select(columns: Sequence[str], source: TableName | str, where: str | None, *within: Composable | None) -> Composed:
    """Select the rows to export: `columns` in order, that meet `where` and all of `within`.

    `source` is a table or a query.
    """
    # Each condition stands on lines of its own: a comment at its end must not swallow our parenthesis.
    filters: list[Composable] = [verbatim(where)] if where is not None else []
    filters += [each for each in within if each is not None]
    filtered = SQL("\nAND ").join(SQL("(\n{}\n)").format(each) for each in filters)
    where_clause = SQL("\nWHERE {}").format(filtered) if filters else SQL("")
    return SQL("SELECT {} FROM {}{}").format(list_columns(columns), _from_clause(source), where_clause)


def check_where(source: TableName | str, where: str) -> Composed:
    """Select no columns of the rows that `where` finds, so that only a complete condition fits."""
    # Without parentheses, in which a condition could be two halves: ``a) OR (b``.
    return SQL("SELECT FROM {} WHERE\n{}\n").format(_from_clause(source), verbatim(where))


def compute(expressions: Composable, source: TableName) -> Composed:
    """Select `expressions`, as the server spells them, of the rows of a table."""
    return SQL("SELECT {} FROM {}").format(expressions, table(source))


def subquery(query: Composable) -> Composed:
    """Put a query where COPY wants something to read."""
    return SQL("(\n{}\n)").format(query)


def columns_of(name: TableName, columns: Sequence[str]) -> Composed:
    """Put columns of a table where COPY wants something to read."""
    return SQL("{} ({})").format(table(name), list_columns(columns))


def in_pages(first: int, end: int | None) -> Composed:
    """Compose the condition for rows stored from page `first` up to page `end`, itself not included.

    None stands for the table's end.
    """
    lower = SQL("ctid >= '({},0)'::tid").format(Literal(first))
    return lower if end is None else SQL("{} AND ctid < '({},0)'::tid").format(lower, Literal(end))


def no_rows(source_sql: str) -> Composed:
    """Select none of `source_sql`'s rows, only the shape that they have."""
    return SQL("SELECT * FROM {} LIMIT 0").format(_from_clause(source_sql))


def explain(query: Composable) -> Composed:
    """Compose the question for the server's plan of `query`, as JSON."""
    return SQL("EXPLAIN (FORMAT JSON) {}").format(query)


def any_row(query: Composable) -> Composed:
    """Compose the question whether `query` has a row at all."""
    return SQL("SELECT EXISTS (SELECT FROM (\n{}\n) AS safecopy_source)").format(query)


def any_rows(whole: TableName, leaves: Sequence[TableName]) -> Composed:
    """Compose the question which tables hold a row, answered by an array of booleans.

    The first is for `whole` with its partitions, the others are for each leaf by itself.
    """
    each = [SQL("EXISTS (SELECT FROM ONLY {})").format(table(leaf)) for leaf in leaves]
    return SQL("SELECT ARRAY[{}]").format(SQL(", ").join([SQL("EXISTS (SELECT FROM {})").format(table(whole)), *each]))


def content_hash(columns: Sequence[str], rows: Composable) -> Composed:
    """Compose the count and hash of rows, equal for equal content in whatever order and encoding.

    The first 64 bits of each row's md5 in UTF-8, summed: duplicates count, the order does not.
    """
    row = SQL("ROW({})").format(list_columns(columns))
    return SQL(
        "SELECT count(*) AS rows, COALESCE(sum(('x' || substr(md5(convert_to({}::text, 'UTF8')), 1, 16))"
        "::bit(64)::bigint::numeric), 0)::text AS hash FROM (\n{}\n) AS safecopy_rows"
    ).format(row, rows)


def create_staging(staging: TableName, columns: Iterable[tuple[str, str]]) -> Composed:
    """Create an unlogged table of these columns, never replicated. The server itself spells the types."""
    columns_and_types = SQL(", ").join(
        SQL("{} {}").format(Identifier(name), verbatim(type_)) for name, type_ in columns
    )
    # Never vacuumed: it lives for one run, and autovacuum would only take locks on it.
    return SQL("CREATE UNLOGGED TABLE {} ({}) WITH (autovacuum_enabled = off)").format(
        table(staging), columns_and_types
    )


def hide_staging(staging: TableName, roles: Iterable[str]) -> tuple[Composed, ...]:
    """Hide the rows of staging from all roles but its owner, despite default privileges.

    Run it in the transaction that makes the table. `roles` are those with a known grant; an empty name is PUBLIC. A role
    granted something later still finds no rows: the table has row security without policies.
    """
    secured = SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table(staging))
    named = SQL(", ").join(Identifier(role) if role else SQL("PUBLIC") for role in sorted(roles))
    revoked = SQL("REVOKE ALL PRIVILEGES ON TABLE {} FROM {}").format(table(staging), named)
    return (secured, revoked) if roles else (secured,)


def drop_staging(*staging: TableName) -> Composed:
    """Drop staging tables; nothing can depend on them."""
    return SQL("DROP TABLE IF EXISTS {}").format(SQL(", ").join(map(table, staging)))


def rename(of: TableName, name: str) -> Composed:
    """Give a table another name in its schema."""
    return SQL("ALTER TABLE {} RENAME TO {}").format(table(of), Identifier(name))


def move(of: TableName, to: TableName) -> tuple[Composed, ...]:
    """Give a table another schema, and another name there."""
    assert to.schema is not None  # noqa: S101 -- where it goes is known
    there = TableName(to.schema, of.name)
    return (SQL("ALTER TABLE {} SET SCHEMA {}").format(table(of), Identifier(to.schema)), rename(there, to.name))


def drop(of: TableName) -> Composed:
    """Drop a table that nothing depends on any more."""
    return SQL("DROP TABLE {}").format(table(of))


def count(of: TableName) -> Composed:
    """Compose the count of a table's rows, with its partitions."""
    return SQL("SELECT count(*) FROM {}").format(table(of))


def lock(target: TableName, mode: LiteralString) -> Composed:
    """Lock the target; inheritance children do not exist (refused), partitions are locked with it."""
    return SQL("LOCK TABLE {} IN {} MODE").format(table(target), SQL(mode))


def delete(target: TableName) -> Composed:
    """Delete every row, visible to older snapshots as long as they live."""
    return SQL("DELETE FROM {}").format(table(target))


def truncate(target: TableName) -> Composed:
    """Empty the table at once. Older snapshots will see it empty: documented, and only on request."""
    return SQL("TRUNCATE {}").format(table(target))


def insert(target: TableName, staging: TableName, columns: Sequence[str], *, identity: bool) -> Composed:
    """Move staging's rows into the target. Identity columns keep the source's values."""
    overriding = SQL(" OVERRIDING SYSTEM VALUE") if identity else SQL("")
    if not columns:
        # A table without columns: INSERT must name something, and DEFAULT VALUES makes one row only.
        return SQL("INSERT INTO {} SELECT FROM {}").format(table(target), table(staging))
    return SQL("INSERT INTO {} ({}){} SELECT {} FROM {}").format(
        table(target), list_columns(columns), overriding, list_columns(columns), table(staging)
    )


def set_local(setting: LiteralString, value: str) -> Composed:
    """Change a setting for the rest of the transaction."""
    return SQL("SET LOCAL {} = {}").format(SQL(setting), Literal(value))


def set_timeout(setting: LiteralString, seconds: float) -> Composed:
    """Set a timeout for the rest of the transaction; never rounded down to 0, which would mean none."""
    return set_local(setting, f"{max(1, round(seconds * 1000))}ms")


def keep_timeout(setting: LiteralString, seconds: float) -> Composed:
    """Set a timeout for the rest of the session; never rounded down to 0, which would mean none."""
    return SQL("SET SESSION {} = {}").format(SQL(setting), Literal(f"{max(1, round(seconds * 1000))}ms"))


def _from_clause(source: TableName | str) -> Composable:
    if isinstance(source, TableName):
        return table(source)
    return SQL("(\n{}\n) AS safecopy_source").format(verbatim(source))


def together(several: Iterable[Composable | str]) -> Composed:
    """Join statements into one message. Those given as text are the server's own, or made of its words."""
    return SQL(";\n").join(verbatim(each) if isinstance(each, str) else each for each in several)


def list_columns(columns: Sequence[str]) -> Composed:
    return SQL(", ").join(map(Identifier, columns))


def verbatim(text: str) -> SQL:
    """Return SQL as it stands: a user's, a type spelled by the server, or a mark of ours."""
    return SQL(text)


def prepare(name: str, query: str) -> Composed:
    """Prepare `query`, which holds its parameters, or ``$1`` and so on in their places."""
    return SQL("PREPARE {} AS {}").format(Identifier(name), verbatim(query))


def execute(name: str, values: Sequence[Any] = ()) -> Composed:
    """Execute a prepared statement, with the `values` of its parameters if it has any."""
    given = SQL(" ({})").format(SQL(", ").join(map(Literal, values))) if values else SQL("")
    return SQL("EXECUTE {}{}").format(Identifier(name), given)


def first(name: str, query: str, values: Sequence[Any] = ()) -> Composed:
    """Prepare a statement and execute it, in one message."""
    return SQL("{}; {}").format(prepare(name, query), execute(name, values))


MEANINGS: tuple[tuple[LiteralString, LiteralString], ...] = (
    # First: a search_path set under it is stored with quotes.
    ("quote_all_identifiers", "off"),
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

_PATH = "search_path"

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


def pins(schemas: Sequence[str] = ()) -> tuple[Composed, ...]:
    """Pin the settings for the rest of the transaction. `schemas` are searched after pg_catalog."""
    own = (SQL("SET LOCAL {} TO DEFAULT").format(SQL(name)) for name in _OWN)
    path = SQL("SET LOCAL search_path = {}").format(_path(schemas))
    searched = (path if name == _PATH else set_local(name, value) for name, value in MEANINGS)
    return (*searched, *own)


def session_pins() -> tuple[Composed, ...]:
    """Pin the settings until the session ends."""
    return tuple(SQL("SET {} TO {}").format(SQL(name), Literal(value)) for name, value in MEANINGS)


def select_changed(schemas: Sequence[str] = (), *, but: tuple[str, ...] = ()) -> Composed:
    """Ask which settings differ from the pinned values, except those in `but`: their names as one text."""
    path = SQL(
        "(SELECT pg_catalog.string_agg(pg_catalog.quote_ident(p.schema), ', ' ORDER BY p.position)"
        " FROM pg_catalog.unnest(ARRAY[{}]::pg_catalog.text[]) WITH ORDINALITY AS p(schema, position))"
    ).format(_path(schemas))
    each = (
        SQL("CASE WHEN pg_catalog.current_setting({0}) OPERATOR(pg_catalog.<>) {1} THEN {0} END").format(
            Literal(name), path if name == _PATH and schemas else Literal(value)
        )
        for name, value in MEANINGS
        if name not in but
    )
    return SQL("SELECT pg_catalog.concat_ws(', ', {}) AS safecopy_changed").format(SQL(", ").join(each))


def begin_reading(savepoint: str | None, schemas: Sequence[str] = ()) -> Composed:
    """Begin a block that cannot write, with all settings pinned: a transaction or a savepoint."""
    begin = SQL("BEGIN READ ONLY") if savepoint is None else SQL("SAVEPOINT {}").format(Identifier(savepoint))
    return together([begin, *pins(schemas)])


def end_reading(savepoint: str | None, schemas: Sequence[str] = (), *, keeps_locks: bool = True) -> Composed:
    """Ask which settings changed, and restore them. Without `keeps_locks` all others are restored as well."""
    if savepoint is None:
        return together([select_changed(schemas), SQL("ROLLBACK"), *session_pins()])
    if not keeps_locks:
        return SQL("{}; {}").format(select_changed(schemas), undo_reading(savepoint))
    return together([select_changed(schemas), SQL("RELEASE SAVEPOINT {}").format(Identifier(savepoint)), *pins()])


def _path(schemas: Sequence[str]) -> Composed:
    return SQL(", ").join(map(Literal, ("pg_catalog", *schemas)))


def undo_reading(savepoint: str | None) -> Composed:
    """Roll back a block that has failed."""
    if savepoint is None:
        return together([SQL("ROLLBACK"), *session_pins()])
    name = Identifier(savepoint)
    return SQL("ROLLBACK TO SAVEPOINT {0}; RELEASE SAVEPOINT {0}").format(name)

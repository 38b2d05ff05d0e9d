"""Statements that create tables and columns, or change them.

Some are only shown to a person, as the next step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from airflow_provider_safecopy.planning.table_definition import Definition, Identity, NewColumn, NewKey
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.statements import list_columns, table, verbatim


def create_table(name: TableName, definition: Definition) -> Composed:
    """Compose an empty table, without keys and comments.

    The statement fails if a table or a type of that name exists.
    """
    return SQL("CREATE TABLE {} (\n  {}\n)").format(
        table(name), SQL(",\n  ").join(_column(column) for column in definition.columns)
    )


def add_columns(name: TableName, columns: Iterable[NewColumn]) -> Composed:
    """Compose the statement that adds columns to a table, all at once.

    Without defaults it takes no time, whatever the table's size.
    """
    added = SQL(", ").join(SQL("ADD COLUMN {}").format(_column(column)) for column in columns)
    return SQL("ALTER TABLE {} {}").format(table(name), added)


def create_schema(name: str) -> Composed:
    """Compose CREATE SCHEMA, for a person to run."""
    return SQL("CREATE SCHEMA {}").format(Identifier(name))


def drop_column(name: TableName, column: str) -> Composed:
    """Compose DROP COLUMN, for a person to run."""
    return SQL("ALTER TABLE {} DROP COLUMN {}").format(table(name), Identifier(column))


def retype(name: TableName, column: str, type_: str, *, using: bool) -> Composed:
    """Compose ALTER COLUMN TYPE, for a person to run.

    `using`: the values need a cast, because they do not become the new type's by themselves.
    """
    cast = SQL(" USING {}::{}").format(Identifier(column), verbatim(type_)) if using else SQL("")
    return SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {}{}").format(
        table(name), Identifier(column), verbatim(type_), cast
    )


def add_key(name: TableName, key: NewKey) -> Composed:
    """Add a primary key or a unique constraint."""
    kind: LiteralString = "PRIMARY KEY" if key.primary else "UNIQUE"
    return SQL("ALTER TABLE {} ADD {}{}{} ({}){}{}{}").format(
        table(name),
        SQL("CONSTRAINT {} ").format(Identifier(key.name)) if key.name else SQL(""),
        SQL(kind),
        SQL(" NULLS NOT DISTINCT" if key.nulls_not_distinct else ""),
        list_columns(key.columns),
        SQL(" INCLUDE ({})").format(list_columns(key.included)) if key.included else SQL(""),
        SQL(" DEFERRABLE" if key.deferrable else ""),
        SQL(" INITIALLY DEFERRED" if key.deferred else ""),
    )


def comments(name: TableName, definition: Definition) -> Iterator[Composed]:
    """Yield comments on the table, its columns, and those of its keys whose name is known."""
    if definition.comment is not None:
        yield _comment("TABLE", table(name), definition.comment)
    for column in definition.columns:
        if column.comment is not None:
            place = SQL("{}.{}").format(table(name), Identifier(column.name))
            yield _comment("COLUMN", place, column.comment)
    for key in definition.keys:
        if key.comment is not None and key.name is not None:
            place = SQL("{} ON {}").format(Identifier(key.name), table(name))
            yield _comment("CONSTRAINT", place, key.comment)


def some_value(expression: str) -> Composed:
    """Compose a query of the value of an expression.

    It is never run, only explained: does this server understand the expression?
    """
    # On lines of its own: a comment at the end of the expression would hide our parenthesis.
    return SQL("SELECT (\n{}\n)").format(verbatim(expression))


def _column(column: NewColumn) -> Composed:
    # Only built-in collations are made again: see `create_table`.
    collation = SQL(" COLLATE {}").format(Identifier("pg_catalog", column.collation)) if column.collation else SQL("")
    default = SQL(" DEFAULT {}").format(verbatim(column.default)) if column.default is not None else SQL("")
    identity = _identity(column.identity) if column.identity else SQL("")
    null = SQL(" NOT NULL" if column.not_null else "")
    parts = (Identifier(column.name), verbatim(column.type), collation, default, identity, null)
    return SQL("{} {}{}{}{}{}").format(*parts)


def _identity(identity: Identity) -> Composed:
    return SQL(" GENERATED {} AS IDENTITY (START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {} CACHE {} {})").format(
        SQL(identity.kind),
        *map(Literal, (identity.start, identity.increment, identity.least, identity.greatest, identity.cache)),
        SQL("CYCLE" if identity.cycle else "NO CYCLE"),
    )


def _comment(kind: LiteralString, of: Composable, text: str) -> Composed:
    return SQL("COMMENT ON {} {} IS {}").format(SQL(kind), of, Literal(text))

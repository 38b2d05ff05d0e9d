"""Statements on what a publish leaves behind: what its guards count, sequences, statistics, materialized views."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.statements import table

# Some run while the role's own search_path is in force: what is PostgreSQL's is called by its full name.


def count_filled(of: TableName, columns: Sequence[str]) -> Composed:
    """Compose the count of a table's rows, and of values in each of `columns`; in one pass."""
    counts = SQL(", ").join(SQL("count({})").format(Identifier(column)) for column in columns)
    return SQL("SELECT count(*) AS rows, ARRAY[{}]::bigint[] AS filled FROM {}").format(counts, table(of))


def peak(of: TableName, column: str, *, highest: bool) -> Composed:
    """A column's highest or lowest value, as numeric; by its index where there is one."""
    function = SQL("max") if highest else SQL("min")
    return SQL("SELECT pg_catalog.{}({})::pg_catalog.numeric FROM {}").format(function, Identifier(column), table(of))


def sequence_state(sequence: TableName) -> Composed:
    """Where a sequence is."""
    return SQL("SELECT last_value, is_called FROM {}").format(table(sequence))


def hold_sequence(sequence: TableName, increment: int) -> Composed:
    """Changes nothing, but keeps others from drawing until the end of the transaction."""
    return SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(table(sequence), Literal(increment))


def restart_sequence(sequence: TableName, value: int) -> Composed:
    """The next value to be drawn; undone by a rollback. Values others have cached are not used any more."""
    return SQL("ALTER SEQUENCE {} RESTART WITH {}").format(table(sequence), Literal(value))


def set_sequence(sequence: TableName, seen: tuple[int, bool], value: int, *, called: bool) -> Composed:
    """Set it unless it has moved since it was `seen`; no row then. No rollback undoes it."""
    last, was_called = seen
    return SQL(
        "SELECT pg_catalog.setval({name}::pg_catalog.regclass, {value}, {called}) FROM {sequence} "
        "WHERE last_value = {last} AND is_called = {was_called}"
    ).format(
        name=Literal(table(sequence).as_string(None)),
        value=Literal(value),
        called=Literal(called),
        sequence=table(sequence),
        last=Literal(last),
        was_called=Literal(was_called),
    )


def move_by_hand(sequence: TableName, value: int) -> str:
    """For a person to run: the sequence goes on after `value`."""
    name = Literal(table(sequence).as_string(None))
    return SQL("SELECT setval({}, {})").format(name, Literal(value)).as_string(None)


def analyze(target: TableName) -> Composed:
    """Statistics for the planner, of partitions too."""
    return SQL("ANALYZE {}").format(table(target))


def refresh(view: TableName, *, concurrently: bool) -> Composed:
    """Make a materialized view anew; `concurrently` its readers do not wait."""
    how = SQL("CONCURRENTLY ") if concurrently else SQL("")
    return SQL("REFRESH MATERIALIZED VIEW {}{}").format(how, table(view))

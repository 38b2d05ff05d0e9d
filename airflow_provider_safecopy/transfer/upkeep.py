"""Statements on what a publish leaves behind.

They serve the counts of row checks, sequences, statistics and materialized views.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.statements import table

# Some run while the role's own search_path is in force, which may hold functions of the same names. So PostgreSQL's own
# functions are called by their full names.


def count_filled(of: TableName, columns: Sequence[str]) -> Composed:
    """Compose the count of a table's rows, and of values in each of `columns`; in one pass."""
    counts = SQL(", ").join(SQL("count({})").format(Identifier(column)) for column in columns)
    return SQL("SELECT count(*) AS rows, ARRAY[{}]::bigint[] AS filled FROM {}").format(counts, table(of))


def peak(of: TableName, column: str, *, highest: bool) -> Composed:
    """Compose the query for a column's highest or lowest value, as numeric.

    It uses the column's index if there is one.
    """
    function = SQL("max") if highest else SQL("min")
    return SQL("SELECT pg_catalog.{}({})::pg_catalog.numeric FROM {}").format(function, Identifier(column), table(of))


def sequence_state(sequence: TableName) -> Composed:
    """Compose the query for the state of a sequence."""
    return SQL("SELECT last_value, is_called FROM {}").format(table(sequence))


def hold_sequence(sequence: TableName, increment: int) -> Composed:
    """Compose the statement that keeps other sessions from drawing until the transaction ends.

    It changes nothing.
    """
    return SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(table(sequence), Literal(increment))


def restart_sequence(sequence: TableName, value: int) -> Composed:
    """Compose the statement that sets the next value to be drawn.

    A rollback undoes it. Values that other sessions have cached are not used any more.
    """
    return SQL("ALTER SEQUENCE {} RESTART WITH {}").format(table(sequence), Literal(value))


def set_sequence(sequence: TableName, seen: tuple[int, bool], value: int, *, called: bool) -> Composed:
    """Compose the statement that sets a sequence, unless it has moved since it was `seen`.

    It returns no row then. No rollback undoes it.
    """
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
    """Return the statement, for a person to run, that has the sequence go on after `value`."""
    name = Literal(table(sequence).as_string(None))
    return SQL("SELECT setval({}, {})").format(name, Literal(value)).as_string(None)


def analyze(target: TableName) -> Composed:
    """Compose ANALYZE: statistics for the planner, of partitions too."""
    return SQL("ANALYZE {}").format(table(target))


def refresh(view: TableName, *, concurrently: bool) -> Composed:
    """Compose the refresh of a materialized view. With `concurrently` its readers do not wait."""
    how = SQL("CONCURRENTLY ") if concurrently else SQL("")
    return SQL("REFRESH MATERIALIZED VIEW {}{}").format(how, table(view))

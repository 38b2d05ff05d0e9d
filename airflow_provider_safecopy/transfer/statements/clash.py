"""Statements about rows that stand in each other's way, or that rows of other tables refer to. For the letters and pieces see `difference`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from airflow_provider_safecopy.transfer.reference import Reference
from airflow_provider_safecopy.transfer.statements.difference import (
    BOTH,
    CHANGED,
    HELD,
    MOVED,
    PARKED,
    STAGED,
    Comparison,
    differ,
    equal,
    of_kind,
    tables,
)
from airflow_provider_safecopy.transfer.statements.rows import table


def move(of: Comparison, columns: Collection[str]) -> Composed:
    """Tell apart those of the changed rows whose `columns` change."""
    return SQL(
        "UPDATE {d} AS d SET kind = {moved} FROM {t} AS t, {s} AS s WHERE {changed} AND {rows} AND {differ}"
    ).format(**tables(of), moved=Literal(MOVED), changed=of_kind({CHANGED}), rows=BOTH, differ=differ(columns))


def lock_rows(of: Comparison, kinds: Collection[str], *, columns: Collection[str] = ()) -> Composed:
    """Lock rows of the target, so that nothing new can refer to them; of `columns`, only where these change."""
    staged, differing = _changing(of, columns)
    return SQL(
        "SELECT pg_catalog.count(*) FROM "
        "(SELECT FROM {t} AS t, {d} AS d{staged} WHERE {kinds} AND {rows}{differing} FOR UPDATE OF t) AS safecopy_locked"
    ).format(**tables(of), staged=staged, kinds=of_kind(kinds), rows=HELD, differing=differing)


def referring(of: Comparison, by: Reference, kinds: Collection[str], *, changed: bool = False) -> Composed:
    """How many rows refer by that foreign key to rows of these kinds; `changed`: to values that change."""
    columns = [name for name in by.columns if name in of.settable] if changed else []
    staged, differing = _changing(of, columns)
    return SQL(
        "SELECT pg_catalog.count(*) FROM {c} AS c, {t} AS t, {d} AS d{staged} "
        "WHERE {kinds} AND {rows} AND {refers}{differing}"
    ).format(
        **tables(of),
        c=table(by.table),
        staged=staged,
        kinds=of_kind(kinds),
        rows=HELD,
        refers=_refers(by),
        differing=differing,
    )


def protect(of: Comparison, references: Iterable[Reference]) -> Composed:
    """Tell apart those of the moved rows that are referred to by these foreign keys: they must not be deleted."""
    found = SQL(" OR ").join(
        SQL("EXISTS (SELECT FROM {} AS c WHERE {})").format(table(by.table), _refers(by)) for by in references
    )
    return SQL("UPDATE {d} AS d SET kind = {parked} FROM {t} AS t WHERE {moved} AND {rows} AND ({found})").format(
        **tables(of), parked=Literal(PARKED), moved=of_kind({MOVED}), rows=HELD, found=found
    )


def relabel(of: Comparison, kind: str, to: str) -> Composed:
    """Do with all differences of one kind what is done with another."""
    return SQL("UPDATE {d} AS d SET kind = {to} WHERE {kind}").format(
        **tables(of), to=Literal(to), kind=of_kind({kind})
    )


def park(of: Comparison, columns: Collection[str], column: str, value: Composable) -> Composed:
    """Take rows whose `columns` change out of each other's way: `column` gets a `value` nobody else has (e the row,
    numbered). Their new places are noted.
    """
    return SQL("""WITH entry AS (
SELECT d.ctid AS entry, d.part, d.held, pg_catalog.row_number() OVER () AS number FROM {d} AS d, {t} AS t, {s} AS s
WHERE {kinds} AND {rows} AND {differ}
), parked AS (
UPDATE {t} AS t SET {column} = {value} FROM entry AS e
WHERE t.ctid OPERATOR(pg_catalog.=) e.held AND t.tableoid OPERATOR(pg_catalog.=) e.part
RETURNING e.entry, t.tableoid AS part, t.ctid AS held
)
UPDATE {d} AS d SET part = p.part, held = p.held FROM parked AS p WHERE d.ctid OPERATOR(pg_catalog.=) p.entry""").format(
        **tables(of),
        kinds=of_kind({PARKED}),
        rows=BOTH,
        differ=differ(columns),
        column=Identifier(column),
        value=value,
    )


def _refers(by: Reference) -> Composed:
    columns = zip(by.columns, by.operators, by.referring, by.collations, strict=True)
    pairs = [
        equal(SQL("t.{}").format(Identifier(referred)), operator, SQL("c.{}").format(Identifier(referring)), collation)
        for referred, operator, referring, collation in columns
    ]
    parts = SQL(", ").join(map(Literal, by.parts))
    return SQL("{} AND t.tableoid OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.oid[])").format(
        SQL(" AND ").join(pairs), parts
    )


def _changing(of: Comparison, columns: Collection[str]) -> tuple[Composable, Composable]:
    """What to join, and on what, to look at rows alone whose `columns` change; all where there are none."""
    if not columns:
        return SQL(""), SQL("")
    return SQL(", {s} AS s").format(**tables(of)), SQL(" AND {} AND {}").format(STAGED, differ(columns))


def asides(of: Comparison, column: str, type_: str, *, nullable: bool) -> Iterator[Composable]:
    """Values that no row should have, for each row e of `park`: NULL is none, unless an expression makes it one."""
    kind = type_.partition("(")[0]
    if nullable:
        yield SQL("NULL")
    if kind in {"smallint", "integer", "bigint", "numeric"}:
        yield SQL(
            "GREATEST((SELECT pg_catalog.max(t.{c}) FROM {t} AS t), (SELECT pg_catalog.max(s.{c}) FROM {s} AS s))"
            "::pg_catalog.numeric OPERATOR(pg_catalog.+) e.number::pg_catalog.numeric"
        ).format(**tables(of), c=Identifier(column))
    if kind in {"text", "character varying"}:
        yield SQL("pg_catalog.concat('~safecopy ', e.number)")
    if kind == "uuid":
        yield SQL("pg_catalog.gen_random_uuid()")

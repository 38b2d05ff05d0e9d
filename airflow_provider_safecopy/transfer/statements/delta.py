"""The statement that writes what differs, and nothing else. What it is composed of is in `difference`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from psycopg.sql import SQL, Composable, Composed, Identifier

from airflow_provider_safecopy.transfer.statements.difference import (
    CHANGED,
    HELD,
    MARKED,
    MOVED,
    NEW,
    PARKED,
    REWRITTEN,
    STAGED,
    VANISHED,
    Comparison,
    of_kind,
    tables,
)
from airflow_provider_safecopy.transfer.statements.rows import list_columns

# What is written together. A unique value is given up before it is taken: hence in this order.
_PARTS: Mapping[str, frozenset[str]] = {
    "gone": frozenset({VANISHED, REWRITTEN}),
    "changed": frozenset({CHANGED, MOVED, PARKED}),
    "marked": frozenset({MARKED}),
    "new": frozenset({NEW}),
    "rewritten": frozenset({REWRITTEN}),
}


def write(of: Comparison, kinds: Collection[str]) -> Composed:
    """Write differences of these kinds, in one statement: foreign keys are checked at its end, and find what was deleted
    and inserted again. Returns how many rows each part wrote: `gone` (vanished), `changed`, `marked`, `new`, `rewritten`.
    """
    wanted = [part for part, acting in _PARTS.items() if not acting.isdisjoint(kinds)]
    written = []
    for position, part in enumerate(wanted):
        # No row is written before all rows of the part before have been: their number is asked for.
        after = _select_after(wanted[position - 1]) if position else SQL("")
        names = SQL(" ({})").format(list_columns(("kind", "staged", *_aliases(of)))) if part == "gone" else SQL("")
        written.append(SQL("{}{} AS (\n{}\n)").format(SQL(part), names, _BODIES[part](of, after)))
    counts = SQL(", ").join(_count_part(part, wanted) for part in _PARTS)
    return SQL("WITH {}\nSELECT {}").format(SQL(", ").join(written), counts)


def _delete(of: Comparison, after: Composable) -> Composed:
    kept = SQL("").join(SQL(", t.{}").format(Identifier(name)) for name in of.kept)
    return SQL(
        "DELETE FROM {t} AS t USING {d} AS d WHERE {kinds} AND {rows}{after} RETURNING d.kind, d.staged{kept}"
    ).format(**tables(of), kinds=of_kind(_PARTS["gone"]), rows=HELD, after=after, kept=kept)


def _update(of: Comparison, after: Composable) -> Composed:
    new = [SQL("{0} = s.{0}").format(Identifier(name)) for name in of.settable]
    if of.mark:
        new.append(SQL("{} = {}").format(Identifier(of.mark.column), of.mark.unset))
    return SQL(
        "UPDATE {t} AS t SET {new} FROM {d} AS d, {s} AS s WHERE {kinds} AND {rows} AND {staged}{after} RETURNING 1"
    ).format(
        **tables(of), new=SQL(", ").join(new), kinds=of_kind(_PARTS["changed"]), rows=HELD, staged=STAGED, after=after
    )


def _mark(of: Comparison, after: Composable) -> Composed:
    assert of.mark is not None  # noqa: S101 -- nothing is marked without
    return SQL("UPDATE {t} AS t SET {column} = {now} FROM {d} AS d WHERE {kinds} AND {rows}{after} RETURNING 1").format(
        **tables(of),
        column=Identifier(of.mark.column),
        now=of.mark.set_clause,
        kinds=of_kind(_PARTS["marked"]),
        rows=HELD,
        after=after,
    )


def _insert(of: Comparison, after: Composable) -> Composed:
    rows = SQL("{d} AS d, {s} AS s WHERE {kinds} AND {staged}").format(
        **tables(of), kinds=of_kind({NEW}), staged=STAGED
    )
    return _inserting(of, (), (), rows, after)


def _insert_again(of: Comparison, after: Composable) -> Composed:
    rows = SQL("gone AS d, {s} AS s WHERE {kinds} AND {staged}").format(
        **tables(of), kinds=of_kind({REWRITTEN}), staged=STAGED
    )
    return _inserting(of, of.kept, _aliases(of), rows, after)


def _inserting(
    of: Comparison, kept: Sequence[str], aliases: Sequence[str], rows: Composed, after: Composable
) -> Composed:
    columns: list[Composable] = [Identifier(name) for name in (*of.columns, *kept)]
    values: list[Composable] = [SQL("s.{}").format(Identifier(name)) for name in of.columns]
    values += [SQL("d.{}").format(Identifier(alias)) for alias in aliases]
    if of.mark:
        columns.append(Identifier(of.mark.column))
        values.append(of.mark.unset)
    return SQL(
        "INSERT INTO {t} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {rows}{after} RETURNING 1"
    ).format(**tables(of), columns=SQL(", ").join(columns), values=SQL(", ").join(values), rows=rows, after=after)


_BODIES = {"gone": _delete, "changed": _update, "marked": _mark, "new": _insert, "rewritten": _insert_again}


def _aliases(of: Comparison) -> tuple[str, ...]:
    return tuple(f"kept_{number}" for number, _ in enumerate(of.kept, 1))


def _select_after(part: str) -> Composed:
    return SQL(" AND (SELECT pg_catalog.count(*) FROM {}) IS NOT NULL").format(SQL(part))


def _count_part(part: str, wanted: Collection[str]) -> Composed:
    if part not in wanted:
        return SQL("0::pg_catalog.int8 AS {}").format(SQL(part))
    only = SQL(" AS d WHERE {}").format(of_kind({VANISHED})) if part == "gone" else SQL("")
    return SQL("(SELECT pg_catalog.count(*) FROM {}{}) AS {}").format(SQL(part), only, SQL(part))

"""Statements that find and write what differs between staging and target, also rows that conflict or are referred to.

Those that write it come after them.

Rows are paired by key, and compared by their bytes: whatever the type, also where it has no ``=``. The differences are
kept in a table of ours, a row for each: what is to be done (`kind`), where the target's row is, where staging's.
Everything of ours is spelled with its schema, for these run under the role's own search_path.

The names in all of them: t the target, s staging, d the differences, c a table that refers to the target.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from airflow_provider_safecopy.planning.keys import Key, Qualified, Reference
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.statements import list_columns, table, verbatim
from airflow_provider_safecopy.spec import Missing

NEW, CHANGED, VANISHED, MARKED = "new", "changed", "vanished", "marked"
# Changed as well: in columns that must be unique; to be deleted and inserted again; to be taken out of the way first.
MOVED, REWRITTEN, PARKED = "moved", "rewritten", "parked"


HELD = SQL("t.ctid OPERATOR(pg_catalog.=) d.held AND t.tableoid OPERATOR(pg_catalog.=) d.part")
"""The target's row of a difference."""

STAGED = SQL("s.ctid OPERATOR(pg_catalog.=) d.staged")
"""Staging's row of a difference."""

BOTH = SQL("{} AND {}").format(HELD, STAGED)


@dataclass(frozen=True)
class Mark:
    """The column that tells since when, or that, the source no longer has a row."""

    column: str
    moment: bool

    @property
    def set_clause(self) -> SQL:
        """The assignment that marks a row as missing."""
        return SQL("pg_catalog.now()" if self.moment else "true")

    @property
    def unset(self) -> SQL:
        """The assignment that marks a row as present."""
        return SQL("NULL" if self.moment else "false")


@dataclass(frozen=True)
class Comparison:
    """The comparison of staging with the target. `columns` are copied; of these UPDATE may set `settable`, and may not set `always`
    (identities generated always; both without those that are equal in rows of one key). `kept` are not copied.
    """

    target: TableName
    staging: TableName
    key: Key
    columns: tuple[str, ...]
    settable: tuple[str, ...]
    always: tuple[str, ...]
    kept: tuple[str, ...]
    missing: Missing
    mark: Mark | None = None

    @property
    def difference(self) -> TableName:
        """The table of differences; it lives in one transaction only."""
        return TableName(self.staging.schema, "difference_" + self.staging.name.rpartition("__safecopy_")[2])


def unique_keys(of: Comparison) -> Composed:
    """An index on staging that only a key of its own for each row allows, as the target's own index would."""
    columns = SQL(", ").join(
        SQL("{}{} {}").format(Identifier(each.name), _collate(each.collation), Identifier(*each.operator_class))
        for each in of.key.columns
    )
    return SQL("CREATE UNIQUE INDEX ON {} ({})").format(table(of.staging), columns)


def analyze(name: TableName, columns: Sequence[str] = ()) -> Composed:
    """Let the planner know what a table of ours holds."""
    return SQL("ANALYZE {}{}").format(table(name), SQL(" ({})").format(list_columns(columns)) if columns else SQL(""))


def keyless(of: Comparison) -> Composed:
    """Compose the count of staging rows without a whole key."""
    null = SQL(" OR ").join(SQL("s.{} IS NOT DISTINCT FROM NULL").format(Identifier(name)) for name in of.key.names)
    return SQL("SELECT count(*) FROM {} AS s WHERE {}").format(table(of.staging), null)


def count_repeated_keys(of: Comparison) -> Composed:
    """Compose the count of staging rows that repeat another one's key."""
    return SQL("SELECT count(DISTINCT s.ctid) FROM {} AS t JOIN {} AS s ON {} AND t.ctid < s.ctid").format(
        table(of.staging), table(of.staging), _one_key(of.key)
    )


def compare(of: Comparison) -> Composed:
    """Make the table of differences."""
    # Never vacuumed: it does not outlive its transaction.
    return SQL("CREATE UNLOGGED TABLE {} WITH (autovacuum_enabled = off) AS\n{}").format(
        table(of.difference), differences(of)
    )


def tally(of: Comparison) -> Composed:
    """Compose the count of differences of each kind."""
    return SQL("SELECT kind, pg_catalog.count(*) AS rows FROM {} GROUP BY kind").format(table(of.difference))


def any_difference(of: Comparison) -> Composed:
    """Compose the count of rows that still differ."""
    return SQL("SELECT pg_catalog.count(*) FROM (\n{}\n) AS safecopy_differences").format(differences(of))


def differences(of: Comparison) -> Composed:
    """The rows that differ: what is to be done, and where they are."""
    vanished = {"keep": SQL("NULL"), "delete": Literal(VANISHED), "mark": Literal(MARKED)}[of.missing]
    # A row that is missing, and marked so already, differs in everything, and is not to be written.
    there = SQL("s.ctid IS NOT NULL AND ") if of.mark else SQL("")
    return SQL("""SELECT CASE WHEN t.ctid IS NULL THEN {new} WHEN s.ctid IS NULL THEN {vanished}{rewritten} ELSE {changed} END AS kind,
t.tableoid AS part, t.ctid AS held, s.ctid AS staged
FROM {s} AS s {join} JOIN {t} AS t ON {pairs}
WHERE t.ctid IS NULL{not_marked}{differ}{marked}""").format(
        **tables(of),
        new=Literal(NEW),
        vanished=vanished,
        rewritten=SQL(" WHEN {} THEN {}").format(differ(of.always), Literal(REWRITTEN)) if of.always else SQL(""),
        changed=Literal(CHANGED),
        join=SQL("LEFT" if of.missing == "keep" else "FULL"),
        pairs=_one_key(of.key),
        not_marked=_match_vanished(of),
        differ=SQL(" OR {}{}").format(there, differ(compared)) if (compared := (*of.settable, *of.always)) else SQL(""),
        marked=SQL(" OR {}{}").format(there, _is_marked(of.mark)) if of.mark else SQL(""),
    )


def tables(of: Comparison) -> dict[str, Composable]:
    """The three tables by their letters."""
    return {"t": table(of.target), "s": table(of.staging), "d": table(of.difference)}


def of_kind(kinds: Collection[str]) -> Composed:
    """The differences of these kinds."""
    array = SQL(", ").join(map(Literal, sorted(kinds)))
    return SQL("d.kind OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.text[])").format(array)


def _match_vanished(of: Comparison) -> Composable:
    if of.missing == "keep":
        return SQL("")
    return SQL(" OR s.ctid IS NULL AND NOT ({})").format(_is_marked(of.mark)) if of.mark else SQL(" OR s.ctid IS NULL")


def _is_marked(mark: Mark) -> Composed:
    return SQL("t.{} IS NOT NULL" if mark.moment else "t.{} IS TRUE").format(Identifier(mark.column))


def differ(columns: Iterable[str]) -> Composed:
    """Compose the condition that any of the columns differs in a byte. Two ROW() side by side would be compared column by column."""
    names = [Identifier(name) for name in columns]
    sides = [SQL(", ").join(SQL("{}.{}").format(SQL(side), name) for name in names) for side in ("t", "s")]
    return SQL("ROW({})::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW({})::pg_catalog.record").format(*sides)


def _one_key(key: Key) -> Composed:
    return SQL(" AND ").join(
        equal(
            SQL("t.{}").format(Identifier(each.name)),
            each.operator,
            SQL("s.{}").format(Identifier(each.name)),
            each.collation,
        )
        for each in key.columns
    )


def equal(one: Composable, operator: Qualified, other: Composable, collation: Qualified | None) -> Composed:
    """One compared with the other. An index serves the side without COLLATE, which then is compared so too."""
    return SQL("{} OPERATOR({}.{}) {}{}").format(
        one, Identifier(operator[0]), verbatim(operator[1]), other, _collate(collation)
    )


def _collate(collation: Qualified | None) -> Composable:
    return SQL(" COLLATE {}").format(Identifier(*collation)) if collation else SQL("")


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
    """Compose the count of rows that refer by that foreign key to rows of these kinds; `changed`: to values that change."""
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
    """Take rows whose `columns` change out of each other's way: `column` gets a `value` that no other row has (e the row,
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
    """Return the join, and its condition, that leaves rows whose `columns` change; all rows where there are none."""
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

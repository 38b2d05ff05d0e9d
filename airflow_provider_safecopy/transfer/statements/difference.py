"""Statements that find what differs between staging and target. Those that write it are in `delta`.

Rows are paired by key, and compared by their bytes: whatever the type, also where it has no ``=``. The differences are
kept in a table of ours, a row for each: what is to be done (`kind`), where the target's row is, where staging's.
Everything of ours is spelled with its schema, for these run under the role's own search_path.

The names in all of them: t the target, s staging, d the differences, c a table that refers to the target.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from airflow_provider_safecopy.transfer.key import Key, Qualified
from airflow_provider_safecopy.transfer.model import Missing
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.statements.rows import list_columns, table, verbatim

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
        """What it says of a row that is missing."""
        return SQL("pg_catalog.now()" if self.moment else "true")

    @property
    def unset(self) -> SQL:
        """What it says of a row that is there."""
        return SQL("NULL" if self.moment else "false")


@dataclass(frozen=True)
class Comparison:
    """What is compared with what. `columns` are copied; of these UPDATE may set `settable`, and may not set `always`
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
    """How many rows of staging have no whole key."""
    null = SQL(" OR ").join(SQL("s.{} IS NOT DISTINCT FROM NULL").format(Identifier(name)) for name in of.key.names)
    return SQL("SELECT count(*) FROM {} AS s WHERE {}").format(table(of.staging), null)


def count_repeated_keys(of: Comparison) -> Composed:
    """How many rows of staging repeat another one's key."""
    return SQL("SELECT count(DISTINCT s.ctid) FROM {} AS t JOIN {} AS s ON {} AND t.ctid < s.ctid").format(
        table(of.staging), table(of.staging), _one_key(of.key)
    )


def compare(of: Comparison) -> Composed:
    """Make the table of differences."""
    # Vacuumed by nobody: it does not outlive its transaction.
    return SQL("CREATE UNLOGGED TABLE {} WITH (autovacuum_enabled = off) AS\n{}").format(
        table(of.difference), differences(of)
    )


def tally(of: Comparison) -> Composed:
    """How many differences of each kind."""
    return SQL("SELECT kind, pg_catalog.count(*) AS rows FROM {} GROUP BY kind").format(table(of.difference))


def any_difference(of: Comparison) -> Composed:
    """How many rows still differ."""
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
    """Whether any of the columns differs in a byte. Two ROW() side by side would be compared column by column."""
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

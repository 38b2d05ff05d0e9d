"""Keys: by which columns, and by which equality, rows of both ends are paired; and what refers to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec

UNIQUE_INDEXES = sql.load("key")["unique_indexes"]
"""The query whose rows `candidates_of` reads: for the table `oid`."""

Qualified = tuple[str, str]
"""Schema and name."""


@dataclass(frozen=True)
class KeyColumn:
    """A column of the target, compared as its unique index compares it.

    `exact`: values that are equal are the same byte for byte; not so ``1.0`` and ``1.00``, nor citext.
    """

    name: str
    # The index's own equality: under another operator or collation, two of its keys could be one row.
    operator: Qualified
    operator_class: Qualified
    collation: Qualified | None
    exact: bool


@dataclass(frozen=True)
class Key:
    """The columns of a unique index of the target that hold no NULL, in the index's order."""

    index: str
    index_oid: int
    columns: tuple[KeyColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(column.name for column in self.columns)

    @property
    def exact(self) -> frozenset[str]:
        """The columns whose values are the same byte for byte in two rows of one key."""
        return frozenset(column.name for column in self.columns if column.exact)


@dataclass(frozen=True)
class Candidate:
    """A unique index that may serve as the key.

    It cannot if a column is nullable, or cannot be joined by equality.
    """

    key: Key
    nullable: tuple[str, ...]
    joinable: bool


def find(session: Session, relation: Relation, spec: CopySpec) -> Key | Refusal:
    """Return the key of `relation` among its unique indexes; see `choose`."""
    return choose(read_candidates(session, relation.oid), relation, spec)


def read_candidates(session: Session, oid: int) -> tuple[Candidate, ...]:
    """Return the unique indexes of the table `oid`, the best first."""
    return candidates_of(session.fetch_all(UNIQUE_INDEXES, {"oid": oid}))


def candidates_of(rows: Iterable[dict[str, Any]]) -> tuple[Candidate, ...]:
    """Return the unique indexes that the rows of `UNIQUE_INDEXES` describe."""
    return tuple(_candidate(list(columns)) for _, columns in groupby(rows, key=lambda row: row["index_oid"]))


def choose(candidates: Iterable[Candidate], relation: Relation, spec: CopySpec) -> Key | Refusal:
    """Return the key of `relation`, or why there is none.

    The key is that of `key_columns`; otherwise the primary key; otherwise a replica identity or a unique index that can
    serve.
    """
    copied = copied_columns(relation, spec)
    if spec.key_columns is None:
        return _best(relation, candidates, copied)
    return _find_requested(relation, candidates, copied, spec.key_columns)


def copied_columns(relation: Relation, spec: CopySpec) -> frozenset[str]:
    """Return the target's columns that the source fills.

    Columns that it cannot fill are refused elsewhere.
    """
    if spec.columns is not None:
        return frozenset(spec.columns.values())
    # The copy itself marks missing rows in this column.
    left_alone = {spec.missing_column}
    return frozenset(column.name for column in relation.columns if not column.generated) - left_alone


def _best(relation: Relation, candidates: Iterable[Candidate], copied: frozenset[str]) -> Key | Refusal:
    """Return the first candidate that can serve, or why none can."""
    left_out: Key | None = None
    # Candidates come in order: the primary key before a replica identity, and the shortest before others.
    for candidate in candidates:
        if candidate.nullable or not candidate.joinable:
            continue
        if copied.issuperset(candidate.key.names):
            return candidate.key
        left_out = left_out or candidate.key
    # That a good key is not copied helps a person more than that there is none.
    if left_out is not None:
        return _not_copied(relation, left_out.names, copied)
    if relation.temporal_keys:
        return _temporal(relation)
    return Refusal(
        "no_key",
        f"{relation.label} has no primary key, nor a unique index without NULLs: its rows cannot be told apart",
        table=relation.label,
        hint="add a primary key; a key given by key_columns needs a unique index too",
    )


def _find_requested(
    relation: Relation, candidates: Iterable[Candidate], copied: frozenset[str], wanted: tuple[str, ...]
) -> Key | Refusal:
    if not copied.issuperset(wanted):
        return _not_copied(relation, wanted, copied)
    unique = [each for each in candidates if set(each.key.names) == set(wanted)]
    for candidate in unique:
        if not candidate.nullable and candidate.joinable:
            return candidate.key
    if not unique and relation.temporal_keys:
        return _temporal(relation)
    told = ", ".join(map(spell, wanted))
    if unique and unique[0].nullable:
        nullable = unique[0].nullable[0]
        message = f"{relation.label}: the key column {spell(nullable)} may be NULL, which equals nothing"
        hint = f"make it NOT NULL: ALTER TABLE … ALTER {spell(nullable)} SET NOT NULL"
        return Refusal("key_nullable", message, relation.label, spell(nullable), hint)
    return Refusal(
        "key_not_unique",
        f"{relation.label} has no unique index on just ({told}): one key could be several rows",
        table=relation.label,
        hint="add a unique index on these columns; one that is partial, or of expressions, will not do",
    )


def _temporal(relation: Relation) -> Refusal:
    names = ", ".join(map(spell, relation.temporal_keys))
    return Refusal(
        "no_key",
        f"{relation.label}: its key {names} is WITHOUT OVERLAPS, which keeps periods apart, but does not say which row is "
        "which: that takes columns that are equal",
        table=relation.label,
        hint="ask for write_mode=replace, with publish=auto or delete_insert; or add a unique index on plain columns",
    )


def _not_copied(relation: Relation, names: tuple[str, ...], copied: frozenset[str]) -> Refusal:
    missing = next(name for name in names if name not in copied)
    there = "is not among the copied columns" if relation.column(missing) else "does not exist"
    message = f"{relation.label}: the key column {spell(missing)} {there}"
    return Refusal("key_not_copied", message, relation.label, spell(missing), "copy the key too, or name another")


def _candidate(rows: list[dict[str, Any]]) -> Candidate:
    columns = tuple(
        KeyColumn(
            row["name"],
            (row["operator_schema"], row["operator"]),
            (row["class_schema"], row["class"]),
            None if row["collation"] is None else (row["collation_schema"], row["collation"]),
            row["exact"],
        )
        for row in rows
    )
    nullable = tuple(row["name"] for row in rows if not row["not_null"])
    key = Key(rows[0]["index"], rows[0]["index_oid"], columns)
    return Candidate(key, nullable, all(row["joinable"] for row in rows))


REFERENCES = sql.load("key")["references"]
"""The query whose rows `parse_references` reads: for the table `oid`."""

_ORDER = sql.load("key")["order"]

ACTIONS = frozenset("cnd")
"""The actions that change the referring rows: cascade, SET NULL, SET DEFAULT.

NO ACTION (a) and RESTRICT (r) only forbid.
"""

_WORDS = {"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}


@dataclass(frozen=True)
class Reference:
    """A foreign key of `table` on `columns` of the target.

    It compares by its own operators and the target's collations. `parts`: the target's tables (oids) the referred rows
    may be in. `own`: `table` is the target, or a part of it.
    """

    name: str
    table: TableName
    own: bool
    on_delete: str
    on_update: str
    parts: tuple[int, ...]
    may_select: bool
    columns: tuple[str, ...]
    referring: tuple[str, ...]
    operators: tuple[Qualified, ...]
    collations: tuple[Qualified | None, ...]

    @property
    def own_actions(self) -> str:
        """The clauses of the target's own foreign key that change its rows; empty without any."""
        events: tuple[Literal["DELETE", "UPDATE"], ...] = ("DELETE", "UPDATE")
        actions = zip(events, (self.on_delete, self.on_update), strict=True)
        return ", ".join(self.format_clause(event) for event, action in actions if self.own and action in ACTIONS)

    def format_clause(self, event: Literal["DELETE", "UPDATE"]) -> str:
        """Return the clause as the key's definition spells it, such as ``ON DELETE SET NULL``."""
        return f"ON {event} {_WORDS[self.on_delete if event == 'DELETE' else self.on_update].upper()}"


def name_order(session: Session, oid: int, error: BaseException | None) -> str:
    """Return the order of copies that a violated foreign key of the table `oid`, or on it, allows; empty for other errors.

    New rows of the parent go before those of the child, and vanished ones after them: no two copies can do both.
    """
    if not isinstance(error, psycopg.errors.ForeignKeyViolation | psycopg.errors.RestrictViolation):
        return ""
    found = session.fetch_one(_ORDER, {"oid": oid, "key": error.diag.constraint_name or ""})
    if found is None:
        return ""
    return (
        f"three copies in this order work: {found['parent']} with write_mode=upsert, which removes nothing; then "
        f"{found['child']}; then {found['parent']} as it was meant"
    )


def read_references(session: Session, oid: int) -> tuple[Reference, ...]:
    """Read the foreign keys that refer to the table `oid`, or to a partition of it. Locks nothing."""
    return parse_references(session.fetch_all(REFERENCES, {"oid": oid}))


def parse_references(rows: Iterable[dict[str, Any]]) -> tuple[Reference, ...]:
    """Return the foreign keys that the rows of `REFERENCES` describe."""
    found = []
    for row in rows:
        table = TableName(row.pop("schema"), row.pop("table"))
        operators = tuple(zip(row.pop("operator_schemas"), row.pop("operators"), strict=True))
        pairs = zip(row.pop("collation_schemas"), row.pop("collations"), strict=True)
        collations = tuple((schema, name) if name is not None else None for schema, name in pairs)
        lists: dict[str, Any] = {key: tuple(row.pop(key)) for key in ("parts", "columns", "referring")}
        found.append(Reference(table=table, operators=operators, collations=collations, **lists, **row))
    return tuple(found)

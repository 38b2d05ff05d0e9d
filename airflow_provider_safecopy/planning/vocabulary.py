"""The vocabulary of a target: which of the source's types, defaults and collations it has too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.planning import catalog, table_statements
from airflow_provider_safecopy.planning.catalog import Column
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.bulk import ask_all
from airflow_provider_safecopy.postgres.session import Session, SettingsChangedError

_DEFINE = sql.load("define")
_UNSPELLABLE = (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire)


@dataclass(frozen=True)
class TargetType:
    """A type that the target has, as it is `spelled` there. `facts` are what a `Column` says of its type.

    `is_constrained`: a domain whose NOT NULL, default or CHECK applies to rows that are there already.
    """

    spelled: str
    is_pseudo: bool
    is_constrained: bool
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Vocabulary:
    """The requested types, defaults and collations that the target has."""

    types: Mapping[str, TargetType]
    defaults: frozenset[str]
    collations: frozenset[str]

    def spell(self, type_: str) -> str:
        """Return how the target spells a type of the source, which may be in another schema there."""
        return self.types[type_].spelled if type_ in self.types else type_


def read_vocabulary(
    target: Session, columns: Iterable[Column], defaults: Iterable[str], collations: Iterable[str]
) -> Vocabulary:
    """Ask the target for types of `columns` and collations, all at once, and for each default by itself."""
    return Vocabulary(
        _read_types(target, {each.type: each for each in columns}),
        frozenset(each for each in sorted(set(defaults)) if _can_evaluate(target, each)),
        frozenset(_read_known(target, "collation_there", "name", sorted(set(collations)), "exists")),
    )


def _read_types(target: Session, columns: Mapping[str, Column]) -> dict[str, TargetType]:
    rows = _read_known(target, "type_there", "type", sorted(columns), "oid")
    facts = catalog.type_facts(target, [row["oid"] for row in rows.values()]) if rows else {}
    found = {name: _target_type(name, row, facts) for name, row in rows.items()}
    return found | _types_elsewhere(target, [each for name, each in sorted(columns.items()) if name not in found])


def _types_elsewhere(target: Session, columns: Sequence[Column]) -> dict[str, TargetType]:
    """Return the types of `columns` that the target has in another schema: of one extension, or made alike."""
    wanted = [each for each in columns if each.type_schema]
    try:
        with target.connection.transaction():
            asked = [{"bare": each.bare_type} for each in wanted]
            answers = ask_all(target, _DEFINE["type_elsewhere"], {"bare": "text"}, asked)
    except _UNSPELLABLE:
        return {}
    facts = catalog.type_facts(target, [row["oid"] for rows in answers for row in rows]) if any(answers) else {}
    there = {}
    for column, rows in zip(wanted, answers, strict=True):
        for row in reversed(rows):
            known = facts[row["oid"]]
            if (column.structure, column.origins) == (known["structure"], known["origins"]):
                there[column.type] = _target_type(row["spelled"], row, facts)
    return there


def _target_type(spelled: str, row: Mapping[str, Any], facts: Mapping[int, Mapping[str, Any]]) -> TargetType:
    return TargetType(spelled, bool(row["pseudo"]), bool(row["obeyed"]), facts[row["oid"]])


def _read_known(
    target: Session, question: str, parameter: str, values: Collection[str], sign: str
) -> dict[str, Mapping[str, Any]]:
    """Return the row of each value that the target knows.

    A row counts if its column `sign` is not empty.
    """
    if not values:
        return {}
    try:
        with target.connection.transaction():
            asked = [{parameter: value} for value in values]
            answers = ask_all(target, _DEFINE[question], {parameter: "text"}, asked)
    except _UNSPELLABLE:
        if len(values) == 1:
            # The target cannot have what its encoding cannot spell.
            return {}
        # One value that cannot be spelled fails the query for all: each is asked for by itself.
        single = (_read_known(target, question, parameter, [value], sign) for value in values)
        return {value: row for found in single for value, row in found.items()}
    return {value: rows[0] for value, rows in zip(values, answers, strict=True) if rows and rows[0][sign]}


def _can_evaluate(target: Session, expression: str) -> bool:
    try:
        with target.run_user_sql():
            target.fetch_one(statements.explain(table_statements.some_value(expression)))
    except SettingsChangedError:
        return False
    except psycopg.Error as error:
        # A lost session or a cancelled query says nothing of the expression.
        if (error.sqlstate or "08")[:2] in {"08", "57"}:
            raise
        return False
    return True

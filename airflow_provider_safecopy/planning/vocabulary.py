"""The vocabulary of a target: which of the source's types, defaults and collations it has too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.planning import catalog, table_statements
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.bulk import ask_all
from airflow_provider_safecopy.postgres.session import Session, SettingsChangedError

_DEFINE = sql.load("define")
_UNSPELLABLE = (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire)


@dataclass(frozen=True)
class TargetType:
    """A type that the target has. `facts` are what a `Column` says of its type.

    `is_constrained`: a domain whose NOT NULL, default or CHECK applies to rows that are there already.
    """

    is_pseudo: bool
    is_constrained: bool
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Vocabulary:
    """The requested types, defaults and collations that the target has."""

    types: Mapping[str, TargetType]
    defaults: frozenset[str]
    collations: frozenset[str]


def read_vocabulary(
    target: Session, types: Iterable[str], defaults: Iterable[str], collations: Iterable[str]
) -> Vocabulary:
    """Ask the target for all types and all collations at once, and for each default by itself."""
    return Vocabulary(
        _read_types(target, sorted(set(types))),
        frozenset(each for each in sorted(set(defaults)) if _can_evaluate(target, each)),
        frozenset(_read_known(target, "collation_there", "name", sorted(set(collations)), "exists")),
    )


def _read_types(target: Session, names: Collection[str]) -> dict[str, TargetType]:
    rows = _read_known(target, "type_there", "type", names, "oid")
    facts = catalog.type_facts(target, [row["oid"] for row in rows.values()]) if rows else {}
    return {name: TargetType(bool(row["pseudo"]), bool(row["obeyed"]), facts[row["oid"]]) for name, row in rows.items()}


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

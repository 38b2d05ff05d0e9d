"""Functions that name things without a schema: they work in the search_path of the role, and not in ours.

Indexes, statistics, views and checks may call functions written in SQL. A planner that looks into such a function reads
its text again, under the search_path of the session. So a source is read with the role's own schemas after pg_catalog
where that takes them; names in SQL of the copy itself still need their schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import catalog, copy_script
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.session import Session, SettingsChangedError

NOT_FOUND = frozenset({"42883", "42P01", "42704", "3F000"})
"""The server's errors about something that has no such name, or none in the search_path."""

_EXPRESSIONS = sql.load("catalog")["expressions"]
_INSTEAD = "give names in it their schema, or the function a SET search_path"


def with_schemas(source: Session, relation: Relation) -> Relation:
    """Return the relation with the schemas that reading it takes; without them where it takes none, or they do not help."""
    readable = relation.may_enter and relation.may_select and not relation.filtered and relation.name is not None
    if not readable or not (relation.calls_functions or relation.kind == "v"):
        return relation
    if any(map(_is_spelled_by_path, relation.columns)):
        return relation
    columns = [column.name for column in relation.columns if column.may_select]
    assert relation.name is not None  # noqa: S101 -- it is readable
    query = statements.explain(statements.select(columns, relation.name, None))
    schemas = _own_schemas(source)
    if not schemas or (not source.searched and _error(source, query) is None):
        return relation
    if _error(source, query, schemas) is not None:
        return relation
    source.searched.update(schemas)
    return replace(relation, schemas=schemas)


def describe_query(source: Session, source_sql: str) -> Relation:
    """Return the shape of a query's result, as `catalog.describe_query` does, with the schemas that its functions take."""
    schemas = _own_schemas(source)
    try:
        found = catalog.describe_query(source, source_sql)
    except psycopg.Error as error:
        if not schemas or not _is_within(error):
            raise
    else:
        if not source.searched or any(map(_is_spelled_by_path, found.columns)):
            return found
    found = catalog.describe_query(source, source_sql, schemas)
    source.searched.update(schemas)
    return found


def check_reading(target: Session, relation: Relation, *, replaces: bool) -> Iterator[Refusal]:
    """Yield a refusal if the rows of the target cannot be read under our search_path."""
    if relation.calls_functions and relation.name is not None:
        error = _error(target, statements.explain(statements.select((), relation.name, None)))
        instead = "; or ask for publish=delete_insert or publish=truncate_insert" if replaces else ""
        yield from _refusals(relation, error, instead)


def check_building(target: Session, relation: Relation) -> Iterator[Refusal]:
    """Yield a refusal if indexes, checks or statistics of the target cannot be made under our search_path."""
    if not relation.calls_functions or relation.name is None:
        return
    error = _error(target, statements.explain(statements.select((), relation.name, None)))
    expressions = [row["expression"] for row in target.fetch_all(_EXPRESSIONS, {"oid": relation.oid})]
    if error is None and expressions:
        listed = statements.verbatim(", ".join(f"({each})" for each in expressions))
        error = _error(target, statements.explain(statements.compute(listed, relation.name)))
    yield from _refusals(relation, error, "; or ask for publish=auto or publish=delete_insert")


def _refusals(relation: Relation, error: psycopg.Error | None, instead: str) -> Iterator[Refusal]:
    if error is None:
        return
    message = (
        f"{relation.label}: its indexes, checks or statistics call a function that names something without its schema"
    )
    yield Refusal(
        "not_built", f"{message}: {describe(error).splitlines()[0]}", relation.label, hint=f"{_INSTEAD}{instead}"
    )


def _is_spelled_by_path(column: Column) -> bool:
    """Return whether values are names of things, which have a schema only where it is not searched."""
    return column.type.startswith("reg")


def _error(session: Session, query: Composed, schemas: tuple[str, ...] = ()) -> psycopg.Error | None:
    """Return the error of a function in `query` that does not find something; None if there is no such error."""
    try:
        with session.run_user_sql(schemas, keeps_locks=False):
            session.fetch_one(query)
    except SettingsChangedError:
        return None
    except psycopg.Error as error:
        return error if _is_within(error) else None
    return None


def _is_within(error: psycopg.Error) -> bool:
    """Return whether something was not found by a function, and not by the statement that calls it."""
    return error.sqlstate in NOT_FOUND and error.diag.internal_query is not None


def _own_schemas(session: Session) -> tuple[str, ...]:
    """Return the role's own search_path, as far as psql reads nothing into its names."""
    return tuple(each for each in session.search_path if each != "pg_catalog" and copy_script.is_plain(each))

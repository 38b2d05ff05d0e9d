"""The bulk catalog: what both servers say of all tables of a call, as one value.

It is true of one moment and serves planning alone: what counts at the publish is asked again under the table's lock.
For one table only the relations are read beforehand; the rest is asked for when the plan depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.planning import catalog, keys, preflight, source_schema
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.create_table import Blueprint, read_source_definitions
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.planning.history import is_readable
from airflow_provider_safecopy.planning.incremental import Lookbacks
from airflow_provider_safecopy.planning.keys import REFERENCES, parse_references
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.planning.source_identity import ClusterIdentity, read_bases, read_cluster_identity
from airflow_provider_safecopy.planning.source_schema import EarlierSchema
from airflow_provider_safecopy.planning.target_table import PAIRING, TableFacts
from airflow_provider_safecopy.planning.vocabulary import read_vocabulary
from airflow_provider_safecopy.postgres.bulk import ask_all
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec, MiB, SizeClass

SMALL_ROWS = 10_000
SMALL_BYTES = MiB
"""A table of a batch that is no larger, on both sides, is swapped only on request."""

TINY_BYTES = 256 * 1024
"""A table no larger than this, without triggers or subscribers, has all of its rows written anew."""


def extent_of(row: Mapping[str, Any]) -> SizeClass:
    """Return the size class of a target table by its statistics."""
    if row["rows"] > SMALL_ROWS or row["bytes"] > SMALL_BYTES:
        return "any"
    return "tiny" if row["bytes"] <= TINY_BYTES and row["unnoticed"] else "small"


def at_least(extent: SizeClass, rows: int | None, size: int | None) -> SizeClass:
    """Return the size class of a copy into a table of class `extent`.

    `rows` and `size` (bytes) are expected from the source; None if not known.
    """
    if rows is None or size is None or rows > SMALL_ROWS or size > SMALL_BYTES:
        return "any"
    return "small" if extent == "tiny" and size > TINY_BYTES else extent


log = logging.getLogger(__name__)

_EXTENT = sql.load("bulk_catalog")["extent"]
_OID = {"oid": "oid"}

Answer = TypeVar("Answer")


Tables = Mapping[TableName, Finding[Relation | None]]
"""Tables of one server by the names they are asked for by.

None stands for a table that does not exist; it is refused if it should.
"""


@dataclass(frozen=True)
class SourceCatalog:
    """The source's answers about tables. `bases` are by OID."""

    tables: Tables = field(default_factory=dict)
    system: ClusterIdentity | None = None
    bases: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TargetCatalog:
    """The target's answers about tables.

    `facts` and `extents` are by OID, `shapes` by the plan's names of both ends. `readable`: whether this role may read
    the copy history; None if it was not asked.
    """

    tables: Tables = field(default_factory=dict)
    facts: Mapping[int, TableFacts] = field(default_factory=dict)
    extents: Mapping[int, SizeClass] = field(default_factory=dict)
    readable: bool | None = None
    shapes: Mapping[tuple[str, TableName], EarlierSchema | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalog:
    """The answers of both servers about the tables of one copy or of a batch.

    `blueprints` are those of tables to be made, by the source's OID. `earlier` are plans of a moment ago, whose
    estimates will do. `lookbacks` are those that plans of other tables have found to be good.
    """

    source: SourceCatalog = SourceCatalog()
    target: TargetCatalog = TargetCatalog()
    blueprints: Mapping[int, Blueprint] = field(default_factory=dict)
    earlier: Mapping[TableName, CopyPlan] = field(default_factory=dict)
    lookbacks: Lookbacks = frozenset()

    def with_plan(self, plan: CopyPlan) -> Catalog:
        """Return the catalog for the next plans, with what `plan` has found out for them too."""
        if plan.history is None or plan.refusals:
            return self
        found = plan.history.list_checked_lookbacks(plan.spec.lookback)
        return replace(self, lookbacks=self.lookbacks | found) if found else self


def read_one(source: Session, target: Session, spec: CopySpec) -> Catalog:
    """Read the tables of one copy from both servers."""
    wanted = ((source, _sources([spec])), (target, _targets([spec])))
    given, taken = (_read_tables(session, names) for session, names in wanted)
    return Catalog(SourceCatalog(given), TargetCatalog(taken))


def read_catalog(
    source: Session, target: Session, specs: Sequence[CopySpec], earlier: Mapping[TableName, CopyPlan] | None = None
) -> Catalog:
    """Read what planning these copies depends on, as far as it can be asked for all at once."""
    given = _attempt(
        source,
        lambda: _read_source(source, specs),
        lambda: SourceCatalog(_read_each(source, _sources(specs))),
    )
    taken = _attempt(
        target,
        lambda: _read_target(target, specs, source),
        lambda: TargetCatalog(_read_each(target, _targets(specs))),
    )
    missing = list(_to_be_made(specs, given.tables, taken.tables))
    unknown: Mapping[int, Blueprint] = {}
    blueprints = (
        _attempt(source, lambda: _read_blueprints(source, target, missing), lambda: unknown) if missing else unknown
    )
    return Catalog(given, taken, blueprints, earlier or {})


def _read_source(session: Session, specs: Sequence[CopySpec]) -> SourceCatalog:
    tables = _read_tables(session, _sources(specs))
    if not (found := _list_relations(tables)):
        return SourceCatalog(tables)
    return SourceCatalog(tables, read_cluster_identity(session), read_bases(session, found))


def _read_target(session: Session, specs: Sequence[CopySpec], source: Session) -> TargetCatalog:
    tables = _read_tables(session, _targets(specs))
    if not specs or all(found.refusals for found in tables.values()):
        return TargetCatalog(tables)
    readable = is_readable(session)
    return TargetCatalog(
        tables,
        _read_facts(session, _list_relations(tables)),
        _read_extents(session, _list_relations(tables)),
        readable,
        source_schema.read_last_schemas(session, _list_names(specs, source)) if readable else {},
    )


def _sources(specs: Iterable[CopySpec]) -> dict[TableName, bool]:
    """Return the tables to read from. All of them must exist (True)."""
    return {spec.source_table: True for spec in specs if spec.source_table is not None}


def _targets(specs: Iterable[CopySpec]) -> dict[TableName, bool]:
    """Return the tables to write into, and whether each must exist."""
    return {spec.target_table: not spec.create_target for spec in specs}


def _read_tables(session: Session, names: Mapping[TableName, bool]) -> Tables:
    """Describe the tables whose names can be spelled.

    A table that must exist, and does not, is refused with similar names.
    """
    wrong = {name: tuple(preflight.check_name(session, name)) for name in names}
    relations = catalog.describe_all(session, [name for name in names if not wrong[name]])
    # A server may have very many names: they are read only to suggest similar ones.
    missing = [name for name, required in names.items() if required and relations.get(name, True) is None]
    if missing:
        tables = catalog.read_names(session)
        wrong |= {name: (preflight.refuse_missing(session.endpoint, name, tables),) for name in missing}
    return {name: Finding(relations.get(name), refusals) for name, refusals in wrong.items()}


def _read_each(session: Session, names: Mapping[TableName, bool]) -> Tables:
    return {
        name: found
        for each, required in names.items()
        for name, found in _read_tables(session, {each: required}).items()
    }


def _list_relations(tables: Tables) -> list[Relation]:
    return [each.value for each in tables.values() if each.value is not None]


def _read_facts(session: Session, tables: Sequence[Relation]) -> dict[int, TableFacts]:
    asked = [{"oid": each.oid} for each in tables]
    answers = [ask_all(session, query, _OID, asked) for query in (keys.UNIQUE_INDEXES, REFERENCES, PAIRING)]
    return {
        each.oid: TableFacts.from_row(keys.candidates_of(indexes), parse_references(references), pairing[0])
        for each, indexes, references, pairing in zip(tables, *answers, strict=True)
    }


def _read_extents(session: Session, tables: Sequence[Relation]) -> dict[int, SizeClass]:
    answers = ask_all(session, _EXTENT, _OID, [{"oid": each.oid} for each in tables])
    return {each.oid: extent_of(rows[0]) for each, rows in zip(tables, answers, strict=True) if rows}


def _list_names(specs: Sequence[CopySpec], source: Session) -> list[tuple[str, TableName]]:
    """Return the names that receipts give both ends, as `CopyPlan` spells them."""
    return [
        (f"{source.endpoint} {spec.source_table}", spec.target_table)
        for spec in specs
        # Names without a schema are looked up on the way: their plans ask for the last schema themselves.
        if spec.source_table and spec.source_table.schema and spec.target_table.schema
    ]


def _to_be_made(specs: Sequence[CopySpec], given: Tables, taken: Tables) -> Iterable[tuple[CopySpec, Relation]]:
    for spec in specs:
        place = taken.get(spec.target_table)
        is_missing = spec.create_target and place is not None and place.value is None and not place.refusals
        found = given.get(spec.source_table) if spec.source_table else None
        if is_missing and found is not None and found.value is not None:
            yield spec, found.value


def _read_blueprints(
    source: Session, target: Session, missing: Sequence[tuple[CopySpec, Relation]]
) -> Mapping[int, Blueprint]:
    """Return what the missing tables are made from, by the source's OID.

    The target is asked for the types and defaults of all tables together.
    """
    originals = read_source_definitions(source, [found for _, found in missing])
    chosen = {found.oid: spec.columns or {each.name: "" for each in found.columns} for spec, found in missing}
    vocabulary = read_vocabulary(
        target,
        [each for _, found in missing for each in found.columns],
        [each for oid, original in originals.items() for each in original.list_defaults(chosen[oid])],
        [each for original in originals.values() for each in original.list_collations(original.columns)],
    )
    return {oid: Blueprint(original, vocabulary) for oid, original in originals.items()}


def _attempt(session: Session, read: Callable[[], Answer], otherwise: Callable[[], Answer]) -> Answer:
    """Return the result of `read`; that of `otherwise` if something cannot be asked for all at once."""
    try:
        # The definitions of views lock the views' tables: unless these locks are released, a batch keeps them until its
        # end.
        with session.connection.transaction(force_rollback=True):
            return read()
    except psycopg.DatabaseError as error:
        # Cancelled: an abort comes once, and would not end the next question. Locked: each question would wait as long.
        # Any other error may be that of one table, which must not fail the others.
        if session.connection.closed or isinstance(
            error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable
        ):
            raise
        log.debug("%s: each table is asked for by itself: %s", session.endpoint, error)
    return otherwise()

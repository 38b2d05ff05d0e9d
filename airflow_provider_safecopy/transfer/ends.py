"""Both ends of a copy: which relations they are, whether they can be a source and a target, and how their columns match."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from airflow_provider_safecopy.transfer import catalog, creation, drift, refusal
from airflow_provider_safecopy.transfer.bulk_catalog import Catalog, Tables
from airflow_provider_safecopy.transfer.catalog import Relation
from airflow_provider_safecopy.transfer.finding import Finding, join, refuse
from airflow_provider_safecopy.transfer.match import ColumnMatch
from airflow_provider_safecopy.transfer.session import Session, SettingsChangedError
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.target_table import TargetTable


@dataclass(frozen=True)
class Ends:
    """Both ends: `source` is the source, `target` the target as it is; None where there is none."""

    source: Relation | None
    target: TargetTable | None
    match: ColumnMatch


def check_ends(spec: CopySpec, source: Session, target: Session, known: Catalog) -> Finding[Ends]:
    """Match the columns of both ends, and refuse what can be no source or no target."""
    servers = refuse([*refusal.check_server(source, writing=False), *refusal.check_server(target, writing=True)])
    given = _source(spec, source, known.source.tables)
    there = known.target.tables[spec.target_table]
    match = Finding(ColumnMatch(relation=there.value))
    blueprint = known.blueprints.get(given.value.oid) if given.value else None
    if given.value and there.value:
        match = drift.match(spec, source, target, (given.value, there.value), blueprint)
    elif given.value and spec.create_target and not there.refusals:
        match = creation.match(spec, source, target, given.value, blueprint)
    readable = refuse(refusal.check_source(source, given.value) if given.value else ())
    writable = refuse(refusal.check_target(target, there.value) if there.value else ())
    table = TargetTable(target, there.value, known.target.facts.get(there.value.oid)) if there.value else None
    said = join(servers, given, there, match, readable, writable)
    return Finding(Ends(given.value, table, match.value), said.refusals, warnings=said.warnings)


def _source(spec: CopySpec, session: Session, tables: Tables) -> Finding[Relation | None]:
    """Return the table or the query to read from, or None and why it cannot be read."""
    if spec.source_table is not None:
        return tables[spec.source_table]
    try:
        return Finding(catalog.describe_query(session, spec.source_sql or ""))
    except SettingsChangedError as error:
        return Finding(None, (refusal.refuse_changed_settings("source_sql", session, error.names),))
    except psycopg.Error as error:
        return Finding(None, (refusal.refuse_bad_sql("source_sql", session, error),))

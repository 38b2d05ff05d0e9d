"""Both ends of a copy: the source and the target, as the servers describe them now or a bulk catalog has them."""

from __future__ import annotations

import psycopg

from airflow_provider_safecopy.transfer import catalog, refusal
from airflow_provider_safecopy.transfer.bulk_catalog import Tables
from airflow_provider_safecopy.transfer.catalog import Relation
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.session import Session, SettingsChangedError
from airflow_provider_safecopy.transfer.spec import CopySpec


def read_table(
    session: Session, name: TableName, tables: Tables, *, missing_is_wrong: bool = True
) -> Finding[Relation | None]:
    """Return the table of this name, or None; a name that cannot be one is refused."""
    if wrong := tuple(refusal.of_name(session, name)):
        return Finding(None, wrong)
    found = tables.relations[name] if name in tables.relations else catalog.describe(session, name)
    if found is not None or not missing_is_wrong:
        return Finding(found)
    names = catalog.read_names(session) if tables.names is None else tables.names
    return Finding(None, (refusal.of_missing(session.endpoint, name, names),))


def read_source(spec: CopySpec, session: Session, tables: Tables) -> Finding[Relation | None]:
    """Return the table or the query to read from, or None and why it cannot be read."""
    if spec.source_table is not None:
        return read_table(session, spec.source_table, tables)
    try:
        return Finding(catalog.describe_query(session, spec.source_sql or ""))
    except SettingsChangedError as error:
        return Finding(None, (refusal.changed_settings("source_sql", session, error.names),))
    except psycopg.Error as error:
        return Finding(None, (refusal.bad_sql("source_sql", session, error),))

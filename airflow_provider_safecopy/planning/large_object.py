"""Large objects, which lie outside of tables: a copy brings the numbers that point at them, and not what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.planning.catalog import Column
from airflow_provider_safecopy.planning.column_match import ColumnPair
from airflow_provider_safecopy.postgres.names import spell
from airflow_provider_safecopy.postgres.session import Session

_ANY = sql.load("catalog")["large_objects"]
_OIDS = frozenset({"oid", "oid[]"})


def warnings(source: Session, pairs: Iterable[ColumnPair]) -> Iterator[str]:
    """Yield a warning about columns that may point at large objects of the source, if it has any."""
    names = [spell(given.name) for given, _ in pairs if _may_point(given)]
    if names and source.fetch_value(_ANY):
        yield (
            f"column {', '.join(names)} may point at large objects, which are not copied: the numbers arrive and point at "
            "nothing; bring them by pg_dump --large-objects, or keep what they hold as bytea"
        )


def _may_point(column: Column) -> bool:
    """Return whether the type is oid, or a domain over it, as lo is."""
    return column.type in _OIDS or column.inner_shape == "oid"

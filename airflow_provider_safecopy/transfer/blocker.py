"""Blockers as rows of the catalog give them."""

from __future__ import annotations

from typing import Any

from airflow_provider_safecopy.blocker import Blocker
from airflow_provider_safecopy.transfer.name import TableName


def read_blocker(row: dict[str, Any]) -> Blocker:
    """Return the blocker in a row of `sql/blockers.sql`."""
    schema, name = row.pop("schema"), row.pop("name")
    return Blocker(**row, relation=None if name is None else str(TableName(schema, name)))

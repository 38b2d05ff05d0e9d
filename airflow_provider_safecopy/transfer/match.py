"""Match: which column of the source goes into which of the target, and what has to be made there for it."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.definition import Definition

ColumnPair = tuple[Column, Column]


@dataclass(frozen=True)
class ColumnMatch:
    """`relation` is the target as it is; or, where `definition` is that of a whole table, as it would be (oid 0)."""

    pairs: tuple[ColumnPair, ...] = ()
    relation: Relation | None = None
    definition: Definition | None = None

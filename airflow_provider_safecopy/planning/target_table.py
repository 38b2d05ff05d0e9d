"""The target table as a publish strategy checks it: its relation, and the facts that pairing rows needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.planning import keys
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.keys import Candidate, Key, Reference, read_references
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec, Strategy

PAIRING = sql.load("key")["pairing"]
"""The query whether a table can be locked and its rows be paired by place: one row for the table `oid`."""


@dataclass(frozen=True)
class TableFacts:
    """The facts that a strategy needs which writes only differences.

    `references` are not read, and empty, if no index can be the key.
    """

    candidates: tuple[Candidate, ...]
    references: tuple[Reference, ...]
    foreign_partitions: tuple[str, ...]
    may_lock: bool

    @classmethod
    def from_row(
        cls, candidates: tuple[Candidate, ...], references: tuple[Reference, ...], pairing: Mapping[str, Any]
    ) -> TableFacts:
        """Return the facts, with those of a row of `PAIRING`."""
        return cls(candidates, references, tuple(pairing["foreign_partitions"]), bool(pairing["may_lock"]))


def read_facts(session: Session, oid: int) -> TableFacts:
    """Read the facts of the table `oid` from the target."""
    candidates = keys.read_candidates(session, oid)
    pairing = session.fetch_one(PAIRING, {"oid": oid})
    assert pairing is not None  # noqa: S101 -- a SELECT without FROM has one row
    # Without an index that can be the key no strategy pairs rows, and none needs the references.
    return TableFacts.from_row(candidates, read_references(session, oid) if candidates else (), pairing)


@dataclass(frozen=True)
class TargetTable:
    """The target as it is now.

    `known_facts` are facts that a batch has read; otherwise they are read when first needed.
    """

    session: Session
    relation: Relation
    known_facts: TableFacts | None = None

    @cached_property
    def facts(self) -> TableFacts:
        """The facts, read at most once."""
        return self.known_facts or read_facts(self.session, self.relation.oid)


def find_pairing_key(spec: CopySpec, table: TargetTable | None, publish: Strategy) -> Key | None:
    """Return the key by which `publish` pairs rows; None if it pairs none, or without a key."""
    if table is None or publish not in {"delta", "upsert"}:
        return None
    found = keys.choose(table.facts.candidates, table.relation, spec)
    # A table without a key is no refusal here: the strategy has refused it.
    return found if isinstance(found, Key) else None

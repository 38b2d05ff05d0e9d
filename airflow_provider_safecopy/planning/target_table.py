"""The target table as a publish strategy checks it: its relation, and the facts that pairing rows depends on."""

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
"""The question whether a table can be locked and its rows be paired by place: one row for the table `oid`."""


@dataclass(frozen=True)
class TableFacts:
    """The facts that writing only differences depends on. `references` are not known where no index could be the key."""

    candidates: tuple[Candidate, ...]
    references: tuple[Reference, ...]
    foreign_partitions: tuple[str, ...]
    may_lock: bool

    @classmethod
    def from_row(
        cls, candidates: tuple[Candidate, ...], references: tuple[Reference, ...], pairing: Mapping[str, Any]
    ) -> TableFacts:
        """Return the facts, with those that the row of `PAIRING` holds."""
        return cls(candidates, references, tuple(pairing["foreign_partitions"]), bool(pairing["may_lock"]))


def read_facts(session: Session, oid: int) -> TableFacts:
    """Ask the target for the facts of the table `oid`."""
    candidates = keys.read_candidates(session, oid)
    pairing = session.fetch_one(PAIRING, {"oid": oid})
    assert pairing is not None  # noqa: S101 -- a SELECT without FROM has one row
    return TableFacts.from_row(candidates, read_references(session, oid) if candidates else (), pairing)


@dataclass(frozen=True)
class TargetTable:
    """The target as it is now. `known_facts` are facts that a batch has read; without, they are read when first needed."""

    session: Session
    relation: Relation
    known_facts: TableFacts | None = None

    @cached_property
    def facts(self) -> TableFacts:
        """The facts, asked for at most once."""
        return self.known_facts or read_facts(self.session, self.relation.oid)


def find_pairing_key(spec: CopySpec, table: TargetTable | None, publish: Strategy) -> Key | None:
    """Return the key of a strategy that pairs rows. That there is none, that strategy has refused."""
    if table is None or publish not in {"delta", "upsert"}:
        return None
    found = keys.choose(table.facts.candidates, table.relation, spec)
    return found if isinstance(found, Key) else None

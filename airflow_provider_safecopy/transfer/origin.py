"""The origin of rows: what is read, whoever answers.

Two copies have one origin only if they read the same: the source as it was configured, the very cluster and database
behind it, the table or query, `where`, the columns and the cursor. Where one of these changes the ledger knows nothing of
the new origin yet: everything is read once more, and nothing is taken for known that is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer.bulk import ask_all
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.spelling import spells

_WATERMARK = sql.load("watermark")
_TOLD = 200
_SHORT = 12


@dataclass(frozen=True)
class Origin:
    """What is read. `endpoint` is as configured: a standby that took over is the same, another host name is not.

    `system` is the cluster's own identity, None where this role may not ask for it. `columns` are pairs of source and
    target column.
    """

    endpoint: str
    system: str | None
    database: str
    table: str | None
    query: str | None
    where: str | None
    columns: tuple[tuple[str, str], ...]
    cursor: str | None

    @property
    def digest(self) -> str:
        """Equal for equal origins, in any process and version of Python."""
        return _digest(json.dumps(asdict(self), sort_keys=True))

    @property
    def label(self) -> str:
        """What people see of it. `where` and queries appear as digests, because their literals may be data."""
        what = self.table or f"query {_digest(self.query or '')[:_SHORT]}"
        return f"{self.endpoint} {what}" + (f" WHERE {_digest(self.where)[:_SHORT]}" if self.where else "")

    def __str__(self) -> str:
        what = self.table or f"({self.query})"
        told = f"{self.endpoint} {what}" + (f" WHERE {self.where}" if self.where else "")
        return told if len(told) <= _TOLD else f"{told[: _TOLD - 1]}…"


@dataclass(frozen=True)
class System:
    """A cluster, by its own `identifier`; None where this role may not ask for it."""

    identifier: str | None


def read_system(source: Session) -> System:
    """Ask the source for its cluster's identity."""
    return System(source.value(_WATERMARK["system"]) if source.value(_WATERMARK["may_ask_system"]) else None)


def origin_of(
    spec: CopySpec, source: Session, system: System, given: Relation, pairs: Sequence[tuple[Column, Column]]
) -> Origin:
    """Return the origin of a copy from the cluster `system`."""
    return Origin(
        endpoint=str(source.endpoint),
        system=system.identifier,
        database=source.server.database,
        table=str(given.name) if given.name else None,
        query=spec.source_sql,
        where=spec.where,
        columns=tuple(sorted((one.name, other.name) for one, other in pairs)),
        cursor=spec.cursor_column,
    )


@dataclass(frozen=True)
class Identity:
    """What receipts call what is copied. `told` is the origin as the target can spell it, `basis` what its name stands for."""

    origin: Origin
    told: str
    basis: str


def identify(spec: CopySpec, target: Session, origin: Origin, basis: str) -> Finding[Identity]:
    """Return how receipts in the target identify the copy; a slice name that the target cannot spell is refused."""
    spells_origin, spells_slice = spells(target, origin.label, spec.append_key or "")
    identity = Identity(origin, origin.label if spells_origin else ascii(origin.label), basis)
    if spells_slice:
        return Finding(identity)
    where = f"{target.server.encoding}, the encoding of {target.endpoint}"
    hint = "spell append_key in letters the target has"
    unknown = Refusal("name_not_in_encoding", f"slice {spec.append_key}: it cannot be spelled in {where}", hint=hint)
    return Finding(identity, (unknown,))


def read_basis(source: Session, given: Relation) -> str:
    """Ask what the name of the source stands for now: another once the table is made anew, or the view defined anew.

    The definition of a view locks the view's tables, which others lock after the view. So these locks are not kept.
    """
    with source.connection.transaction(force_rollback=True) if given.kind in "vm" else nullcontext():
        return _digest(str(source.value(_WATERMARK["made_of"], {"oid": given.oid})))


def read_bases(source: Session, given: Sequence[Relation]) -> dict[int, str]:
    """Return what `read_basis` does for each, by oid, in one question."""
    answers = ask_all(source, _WATERMARK["made_of"], {"oid": "oid"}, [{"oid": each.oid} for each in given])
    texts = (next(iter(rows[0].values())) if rows else None for rows in answers)
    return {each.oid: _digest(str(text)) for each, text in zip(given, texts, strict=True)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

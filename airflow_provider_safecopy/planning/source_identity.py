"""The identity of a source: what is read, on whichever server answers.

Two copies have one source identity only if they read the same: the source as it was configured, the very cluster and
database behind it, the table or query, `where`, the columns and the cursor. Where one of these changes, the copy
history knows nothing of the new identity yet: everything is read once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.catalog import Column, Relation, check_spelling
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.postgres.bulk import ask_all
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec

_WATERMARK = sql.load("watermark")
_MAX_LABEL = 200
_SHORT_DIGEST = 12


@dataclass(frozen=True)
class SourceIdentity:
    """The identity of a source.

    `endpoint` is as configured: a standby that took over is the same, another host name is not. `system` is the
    cluster's own identifier, None where this role may not ask for it. `columns` are pairs of source and target column.
    """

    endpoint: str
    system: str | None
    database: str
    table: str | None
    query: str | None
    where: str | None
    columns: tuple[tuple[str, str], ...]
    # Another cursor has other values: its watermark would say nothing of the rows that were read.
    cursor: str | None

    @property
    def digest(self) -> str:
        """The digest: equal for equal identities, in any process and version of Python."""
        return _compute_digest(json.dumps(asdict(self), sort_keys=True))

    @property
    def label(self) -> str:
        """The identity for people.

        `where` and queries appear as digests, because their literals may be data.
        """
        what = self.table or f"query {_compute_digest(self.query or '')[:_SHORT_DIGEST]}"
        return f"{self.endpoint} {what}" + (
            f" WHERE {_compute_digest(self.where)[:_SHORT_DIGEST]}" if self.where else ""
        )

    def __str__(self) -> str:
        what = self.table or f"({self.query})"
        told = f"{self.endpoint} {what}" + (f" WHERE {self.where}" if self.where else "")
        return told if len(told) <= _MAX_LABEL else f"{told[: _MAX_LABEL - 1]}…"


@dataclass(frozen=True)
class ClusterIdentity:
    """A cluster by its own `identifier`; None where this role may not ask for it."""

    identifier: str | None


def read_cluster_identity(source: Session) -> ClusterIdentity:
    """Read the identity of the source's cluster."""
    return ClusterIdentity(
        source.fetch_value(_WATERMARK["system"]) if source.fetch_value(_WATERMARK["may_ask_system"]) else None
    )


def build_source_identity(
    spec: CopySpec,
    source: Session,
    cluster: ClusterIdentity,
    source_relation: Relation,
    pairs: Sequence[tuple[Column, Column]],
) -> SourceIdentity:
    """Return the source identity of a copy from `cluster`."""
    return SourceIdentity(
        endpoint=str(source.endpoint),
        system=cluster.identifier,
        database=source.server.database,
        table=str(source_relation.name) if source_relation.name else None,
        query=spec.source_sql,
        where=spec.where,
        # Sorted: the order of columns changes no row, and must not have everything read once more.
        columns=tuple(sorted((one.name, other.name) for one, other in pairs)),
        cursor=spec.cursor_column,
    )


@dataclass(frozen=True)
class CopyIdentity:
    """The identity of a copy in receipts.

    `source_label` is the source's label as the target can spell it, `basis` the digest of what the source's name stands
    for.
    """

    source_identity: SourceIdentity
    source_label: str
    basis: str


def identify_copy(
    spec: CopySpec, target: Session, source_identity: SourceIdentity, basis: str
) -> Finding[CopyIdentity]:
    """Return the identity of a copy in the target's receipts.

    An append key that the target cannot spell is refused.
    """
    spells_origin, spells_slice = check_spelling(target, source_identity.label, spec.append_key or "")
    identity = CopyIdentity(
        source_identity, source_identity.label if spells_origin else ascii(source_identity.label), basis
    )
    if spells_slice:
        return Finding(identity)
    where = f"{target.server.encoding}, the encoding of {target.endpoint}"
    hint = "spell append_key in letters the target has"
    unknown = Refusal(
        "name_not_in_encoding", f"append_key {spec.append_key}: it cannot be spelled in {where}", hint=hint
    )
    return Finding(identity, (unknown,))


def read_basis(source: Session, source_relation: Relation) -> str:
    """Return the digest of what the source's name stands for now.

    It is another one once the table is made anew, or the view is defined anew.
    """
    # The definition of a view locks the view's tables, which other sessions lock after the view: these locks must not
    # be kept.
    with source.connection.transaction(force_rollback=True) if source_relation.kind in "vm" else nullcontext():
        return _compute_digest(str(source.fetch_value(_WATERMARK["made_of"], {"oid": source_relation.oid})))


def read_bases(source: Session, source_relations: Sequence[Relation]) -> dict[int, str]:
    """Return the result of `read_basis` for each relation by its OID, in one query."""
    answers = ask_all(source, _WATERMARK["made_of"], {"oid": "oid"}, [{"oid": each.oid} for each in source_relations])
    texts = (next(iter(rows[0].values())) if rows else None for rows in answers)
    return {each.oid: _compute_digest(str(text)) for each, text in zip(source_relations, texts, strict=True)}


def _compute_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

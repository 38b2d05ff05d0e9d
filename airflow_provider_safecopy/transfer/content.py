"""The content of a copy: which rows are read, how many are expected, and how they are published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import choice, estimate, guard, ledger, mismatch
from airflow_provider_safecopy.transfer.bulk_catalog import Catalog
from airflow_provider_safecopy.transfer.catalog import Relation
from airflow_provider_safecopy.transfer.ends import Ends
from airflow_provider_safecopy.transfer.estimate import Estimate
from airflow_provider_safecopy.transfer.extent import at_least
from airflow_provider_safecopy.transfer.finding import Finding, join, refuse
from airflow_provider_safecopy.transfer.ledger import CopyHistory, HistoryInput
from airflow_provider_safecopy.transfer.model import Strategy
from airflow_provider_safecopy.transfer.origin import (
    build_source_identity,
    identify_copy,
    read_basis,
    read_cluster_identity,
)
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec


@dataclass(frozen=True)
class Content:
    """What is known of earlier copies, None where nothing can be; what the source is expected to give; the strategy."""

    ledger: CopyHistory | None
    expected: Estimate
    publish: Strategy


def weigh(spec: CopySpec, source: Session, target: Session, found: Finding[Ends], known: Catalog) -> Finding[Content]:
    """Choose the publish strategy, check the pairs, and find out what the source will give."""
    ends = found.value
    given, there, taken, pairs = ends.source, ends.target, ends.match.relation, ends.match.pairs
    extent = known.target.extents.get(there.relation.oid, "any") if there else "any"
    earlier = known.earlier.get(spec.target_table)
    former = earlier.history if earlier and not earlier.refusals else None
    publish = choice.choose(spec, there, extent)
    both = (given, taken) if given and taken else None
    paired = refuse(mismatch.check_pairs(pairs, source, target, both) if both else ())
    guarded = guard.check(spec, taken.label if both and taken else None, [column.name for _, column in pairs])
    same = refuse(_onto_itself(source, target, both) if both else ())
    blocked = bool(join(found, publish, paired, guarded, same).refusals)
    history: Finding[CopyHistory | None] = Finding(None)
    if given:
        origin = build_source_identity(spec, source, known.source.system or read_cluster_identity(source), given, pairs)
        basis = known.source.bases.get(given.oid) or read_basis(source, given)
        before = HistoryInput(
            identify_copy(spec, target, origin, basis), known.target.readable, former, blocked, known.lookbacks
        )
        history = ledger.read_copy_history(spec, (source, target), taken, pairs, before)
    bounds = history.value.read_range if history.value else None
    expected = estimate.estimate(spec, source, given, pairs, bounds, earlier=earlier)
    if (actual := at_least(extent, expected.value.rows, expected.value.size)) != extent:
        publish = choice.choose(spec, there, actual)
    refusals = join(publish, paired, guarded, same, history, expected).refusals
    reasons = (*publish.reasons, *mismatch.explain_widening(pairs), *history.reasons, *guarded.reasons)
    return Finding(Content(history.value, expected.value, publish.value), refusals, reasons, history.warnings)


def _onto_itself(source: Session, target: Session, relations: tuple[Relation, Relation]) -> Iterator[Refusal]:
    given, taken = relations
    if source.server.identity == target.server.identity and given.oid == taken.oid:
        message = f"{taken.label}: source and target are the same table"
        yield Refusal("onto_itself", message, taken.label, hint="name another table, or another target")

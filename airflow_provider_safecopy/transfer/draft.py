"""Drafting the plan: look at both ends and decide, touching nothing.

Each check returns a `Finding`; the plan joins them, in the order in which people read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import (
    aftermath,
    choice,
    creation,
    drift,
    guard,
    ledger,
    mismatch,
    refusal,
    shape,
    statements,
)
from airflow_provider_safecopy.transfer.bulk_catalog import Catalog
from airflow_provider_safecopy.transfer.catalog import Relation
from airflow_provider_safecopy.transfer.ends import read_source, read_table
from airflow_provider_safecopy.transfer.estimate import Estimate, estimate
from airflow_provider_safecopy.transfer.extent import at_least
from airflow_provider_safecopy.transfer.finding import Finding, join, refused
from airflow_provider_safecopy.transfer.ledger import Known, Ledger
from airflow_provider_safecopy.transfer.manner import settle
from airflow_provider_safecopy.transfer.match import Match
from airflow_provider_safecopy.transfer.model import Way
from airflow_provider_safecopy.transfer.name import spell
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.target_table import TargetTable, paired_by
from airflow_provider_safecopy.transfer.ways import WAYS


@dataclass(frozen=True)
class _Ends:
    """Both ends as they were read: the relations, None where there is none, and how their columns match."""

    given: Relation | None
    there: TargetTable | None
    match: Match


@dataclass(frozen=True)
class _Content:
    """What is copied and how it is published: the ledger, what is expected of the source, the publish strategy."""

    ledger: Ledger | None
    expected: Estimate
    publish: Way


def draft(
    spec: CopySpec, source: Session, target: Session, catalog: Catalog | None = None, *, telling: bool = True
) -> CopyPlan:
    """Look at both ends and decide. Reads only. What is wrong with the copy becomes `refusals`.

    `catalog` is what a batch has read of both ends. Without `telling` the plan is to be carried out and not shown: it does
    not spell out how it will publish.
    """
    known = catalog or Catalog()
    ends = _read(spec, source, target, known)
    content = _weigh(spec, source, target, ends, known)
    given, match, publish = ends.value.given, ends.value.match, content.value.publish
    manner = settle(spec, (source, target), given, match.pairs, size=content.value.expected.size, publish=publish)
    of_way = Finding(None, warnings=tuple(_warnings_of_way(publish, ends.value.there)))
    plan = CopyPlan(
        spec=spec,
        source=f"{source.endpoint} {given.label if given else spec.source_table or 'the query'}",
        target=f"{target.endpoint} {match.relation.label if match.relation else spec.target_table}",
        source_relation=given,
        target_relation=match.relation,
        pairs=match.pairs,
        format=manner.value.format,
        transfer=manner.value.transfer,
        publish=publish,
        psql=manner.value.psql,
        expected_rows=content.value.expected.rows,
        expected_bytes=content.value.expected.size,
        reasons=join(manner, content).reasons,
        warnings=join(manner, of_way, ends, content).warnings,
        refusals=join(ends, content, manner).refusals,
        ledger=content.value.ledger,
        lanes=manner.value.lanes,
        hidden_from=target.server.grantees,
        definition=match.definition,
        key=paired_by(spec, ends.value.there, publish),
    )
    return _completed(plan, target, ends.value, known, telling=telling)


def _read(spec: CopySpec, source: Session, target: Session, known: Catalog) -> Finding[_Ends]:
    """Read both relations, match their columns, and refuse what can be no source or no target."""
    servers = refused([*refusal.of_server(source, writing=False), *refusal.of_server(target, writing=True)])
    given = read_source(spec, source, known.source.tables)
    there = read_table(target, spec.target_table, known.target.tables, missing_is_wrong=not spec.create_target)
    match = Finding(Match(relation=there.value))
    blueprint = known.blueprints.get(given.value.oid) if given.value else None
    if given.value and there.value:
        match = drift.match(spec, source, target, (given.value, there.value), blueprint)
    elif given.value and spec.create_target and not there.refusals:
        match = creation.match(spec, source, target, given.value, blueprint)
    readable = refused(refusal.of_source(source, given.value) if given.value else ())
    writable = refused(refusal.of_target(target, there.value) if there.value else ())
    table = TargetTable(target, there.value, known.target.facts.get(there.value.oid)) if there.value else None
    said = join(servers, given, there, match, readable, writable)
    return Finding(_Ends(given.value, table, match.value), said.refusals, warnings=said.warnings)


def _weigh(spec: CopySpec, source: Session, target: Session, ends: Finding[_Ends], known: Catalog) -> Finding[_Content]:
    """Choose the publish strategy, check the pairs, and find out what the source will give."""
    given, there, pairs = ends.value.given, ends.value.there, ends.value.match.pairs
    extent = known.target.extents.get(there.relation.oid, "any") if there else "any"
    publish = choice.choose(spec, there, extent)
    checked = Finding(None, tuple(_of_pairs(spec, source, target, ends.value)), tuple(mismatch.widened(pairs)))
    earlier = known.earlier.get(spec.target_table)
    blocked = bool(join(ends, publish, checked).refusals)
    history = _look_up(spec, (source, target), ends.value, known, blocked=blocked)
    bounds = history.value.bounds if history.value else None
    expected = estimate(spec, source, given, pairs, bounds, earlier=earlier)
    if (actual := at_least(extent, expected.value.rows, expected.value.size)) != extent:
        publish = choice.choose(spec, there, actual)
    said = join(publish, checked, history, expected, Finding(None, reasons=guard.told(spec)))
    content = _Content(history.value, expected.value, publish.value)
    return Finding(content, said.refusals, said.reasons, said.warnings)


def _of_pairs(spec: CopySpec, source: Session, target: Session, ends: _Ends) -> Iterator[Refusal]:
    given, taken, pairs = ends.given, ends.match.relation, ends.match.pairs
    if given is None or taken is None:
        return
    yield from mismatch.of_pairs(pairs, source, target, (given, taken))
    yield from guard.refusals(spec, taken.label, [column.name for _, column in pairs])
    if source.server.identity == target.server.identity and given.oid == taken.oid:
        message = f"{taken.label}: source and target are the same table"
        yield Refusal("onto_itself", message, taken.label, hint="name another table, or another target")


def _look_up(
    spec: CopySpec, sessions: tuple[Session, Session], ends: _Ends, catalog: Catalog, *, blocked: bool
) -> Finding[Ledger | None]:
    """Return what the ledger says of the copy; of one that is refused already (`blocked`), only what it would read."""
    if ends.given is None:
        return Finding(None)
    earlier = catalog.earlier.get(spec.target_table)
    former = earlier.ledger if earlier and not earlier.refusals else None
    basis = catalog.source.bases.get(ends.given.oid)
    known = Known(catalog.source.system, basis, catalog.target.readable, former)
    pairs = ends.match.pairs
    identified = ledger.identify(spec, sessions, ends.given, pairs, known)
    if blocked or identified.refusals:
        return identified
    return ledger.look_up(identified.value, spec, sessions, (ends.match.relation, pairs), known)


def _completed(plan: CopyPlan, target: Session, ends: _Ends, known: Catalog, *, telling: bool) -> CopyPlan:
    """Return the plan with what depends on the whole of it; if it is to be shown, with how it will publish."""
    views = aftermath.views(target, plan.target_name) if plan.spec.refresh_views and ends.there else ()
    warnings = (*plan.warnings, *_since(plan, target, known), *aftermath.warnings(target.server.role, views))
    copied = statements.export_copy(plan.read(), format=plan.format) if ends.given else None
    refusals = (*plan.refusals, *(refusal.check_text_size(copied) if copied else ()))
    plan = dataclasses.replace(plan, warnings=warnings, refusals=refusals)
    if refusals or not telling:
        return plan
    after = aftermath.steps(plan.publish, plan.target_name, views)
    publishing = (*drift.steps(plan), *WAYS[plan.publish].steps(plan, target), *after)
    return dataclasses.replace(plan, publishing=publishing)


def _since(plan: CopyPlan, target: Session, known: Catalog) -> tuple[str, ...]:
    """Return what has become of the source since the last copy of it into this target."""
    if plan.shape is None:
        return ()
    names = plan.source, plan.target_name
    shapes = known.target.shapes
    seen = shapes[names] if names in shapes else shape.last(target, source=plan.source, target=plan.target_name)
    return tuple(seen.told(plan.shape, plan.target_name)) if seen else ()


def _warnings_of_way(way: Way, table: TargetTable | None) -> Iterator[str]:
    """Yield warnings about what a way to publish does."""
    relation = table.relation if table else None
    if relation and way == "delete_insert" and relation.referenced_by:
        yield f"{relation.label} is referenced by {', '.join(relation.referenced_by)}: publishing fails while rows refer to it"
    if relation and way == "swap" and relation.triggers:
        named = ", ".join(map(spell, relation.triggers))
        yield f"{relation.label}: its triggers do not fire in a swap ({named}); ask for publish=delete_insert if they must"

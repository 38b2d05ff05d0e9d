"""Drafting the plan: look at both ends and decide, touching nothing.

Each check returns a `Finding`; the plan joins them, in the order in which people read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from airflow_provider_safecopy.transfer import (
    aftermath,
    drift,
    refusal,
    shape,
    statements,
)
from airflow_provider_safecopy.transfer.bulk_catalog import Catalog, read_one
from airflow_provider_safecopy.transfer.content import weigh
from airflow_provider_safecopy.transfer.ends import Ends, check_ends
from airflow_provider_safecopy.transfer.finding import Finding, join
from airflow_provider_safecopy.transfer.manner import choose_method
from airflow_provider_safecopy.transfer.model import Strategy
from airflow_provider_safecopy.transfer.name import spell
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.target_table import TargetTable, find_pairing_key
from airflow_provider_safecopy.transfer.ways import STRATEGIES


def draft(
    spec: CopySpec, source: Session, target: Session, catalog: Catalog | None = None, *, telling: bool = True
) -> CopyPlan:
    """Look at both ends and decide. Reads only. What is wrong with the copy becomes `refusals`.

    `catalog` is what a batch has read of both ends. Without `telling` the plan is to be carried out and not shown: it does
    not spell out how it will publish.
    """
    known = catalog or read_one(source, target, spec)
    ends = check_ends(spec, source, target, known)
    content = weigh(spec, source, target, ends, known)
    given, match, publish = ends.value.source, ends.value.match, content.value.publish
    manner = choose_method(
        spec, (source, target), given, match.pairs, size=content.value.expected.size, publish=publish
    )
    of_way = Finding(None, warnings=tuple(_warn_of_strategy(publish, ends.value.target)))
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
        history=content.value.ledger,
        page_ranges=manner.value.page_ranges,
        hidden_from=target.server.grantees,
        definition=match.definition,
        key=find_pairing_key(spec, ends.value.target, publish),
    )
    return _complete_plan(plan, target, ends.value, known, telling=telling)


def _complete_plan(plan: CopyPlan, target: Session, ends: Ends, known: Catalog, *, telling: bool) -> CopyPlan:
    """Return the plan with what depends on the whole of it; if it is to be shown, with how it will publish."""
    views = aftermath.views(target, plan.target_name) if plan.spec.refresh_views and ends.target else ()
    warnings = (*plan.warnings, *_describe_changes(plan, target, known), *aftermath.warnings(target.server.role, views))
    copied = statements.export_copy(plan.build_copy_source(), format=plan.format) if ends.source else None
    refusals = (*plan.refusals, *(refusal.check_text_size(copied) if copied else ()))
    plan = dataclasses.replace(plan, warnings=warnings, refusals=refusals)
    if refusals or not telling:
        return plan
    after = aftermath.steps(plan.publish, plan.target_name, views)
    publishing = (*drift.steps(plan), *STRATEGIES[plan.publish].list_steps(plan, target), *after)
    return dataclasses.replace(plan, publish_steps=publishing)


def _describe_changes(plan: CopyPlan, target: Session, known: Catalog) -> tuple[str, ...]:
    """Return what has become of the source since the last copy of it into this target."""
    if plan.source_schema is None:
        return ()
    names = plan.source, plan.target_name
    shapes = known.target.shapes
    seen = (
        shapes[names]
        if names in shapes
        else shape.read_last_schema(target, source=plan.source, target=plan.target_name)
    )
    return tuple(seen.list_warnings(plan.source_schema, plan.target_name)) if seen else ()


def _warn_of_strategy(way: Strategy, table: TargetTable | None) -> Iterator[str]:
    """Yield warnings about what a way to publish does."""
    relation = table.relation if table else None
    if relation and way == "delete_insert" and relation.referenced_by:
        yield f"{relation.label} is referenced by {', '.join(relation.referenced_by)}: publishing fails while rows refer to it"
    if relation and way == "swap" and relation.triggers:
        named = ", ".join(map(spell, relation.triggers))
        yield f"{relation.label}: its triggers do not fire in a swap ({named}); ask for publish=delete_insert if they must"

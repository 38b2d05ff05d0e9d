"""Tables that are exchanged while their copy is planned.

Planning's questions then meant different tables, and its refusals would mislead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import catalog
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.session import Session


def name_exchanges(first: CopyPlan, second: CopyPlan, source: Session, target: Session) -> CopyPlan:
    """Return `second`, refused for an exchange alone if that may be why it has refusals.

    A table dropped between two questions seems to have no columns, rights or pages, and a user who reads
    that about a sound table would look for a mistake of their own. `first` is the plan made just before.
    """
    if not second.refusals:
        return second
    found = tuple(_exchanges(first, second, source, target))
    return replace(second, refusals=found) if found else second


def _exchanges(first: CopyPlan, second: CopyPlan, source: Session, target: Session) -> Iterator[Refusal]:
    if _is_another(source, first.source_relation, second.source_relation):
        yield _refusal("source_changed", source, second.source_relation)
    if _is_another(target, first.target_relation, second.target_relation):
        yield _refusal("target_changed", target, second.target_relation)


def _is_another(session: Session, before: Relation | None, relation: Relation | None) -> bool:
    """Return whether the name stands, or stood in the first plan, for another table."""
    if relation is None or relation.name is None or not relation.oid:
        return False
    if before is not None and before.oid != relation.oid:
        return True
    # Asked once more: the table may have gone between two questions of the second plan.
    now = catalog.describe(session, relation.name)
    return now is None or now.oid != relation.oid


def _refusal(code: str, session: Session, relation: Relation | None) -> Refusal:
    label = relation.label if relation else ""
    message = f"{session.endpoint}: {label} was replaced by another table, or dropped, while the copy was planned"
    return Refusal(code, message, label, hint="run the copy again")

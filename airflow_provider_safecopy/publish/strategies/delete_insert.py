"""DELETE and INSERT: every reader, with an old snapshot too, sees the old rows or the new ones. Bloats the table."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import preflight
from airflow_provider_safecopy.planning.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import target_lock
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import CopySpec

_LOCK = "SHARE ROW EXCLUSIVE"


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """Rights, foreign keys that would spread the DELETE, and publications that would refuse it."""
    relation, label, role = table.relation, table.relation.label, table.session.server.role
    if not relation.may_delete:
        yield preflight.refuse_privilege(label, role, "DELETE")
    if relation.deletes_spread_by:
        yield Refusal(
            "delete_spreads",
            f"{label}: deleting its rows would change other tables by {', '.join(relation.deletes_spread_by)}",
            table=label,
            hint="ask for publish=delta, or drop the ON DELETE action of that foreign key",
        )
    if relation.published_without_identity:
        yield Refusal(
            "no_replica_identity",
            f"{label} is published to subscribers and has no replica identity: DELETE is refused",
            table=label,
            hint="add a primary key or a REPLICA IDENTITY, or ask for publish=truncate_insert",
        )
    yield from preflight.of_publications(relation, relation.deletes_refused_by)


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """Rows that others refer to cannot be deleted; and triggers that have rows other than they come."""
    relation = table.relation
    if relation.referenced_by:
        return f"it fails as soon as a row is referred to by {', '.join(relation.referenced_by)}"
    return preflight.find_trigger_drawback(relation)


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """Both statements."""
    return tuple(
        PlannedStep("publish", "target", statement.as_string(None), _LOCK)
        for statement in (statements.delete(plan.target_name), plan.build_insert())
    )


def prepare(job: PublishContext) -> None:
    """Nothing."""


def write(job: PublishContext, prepared: None) -> WrittenRows:
    """Delete all, insert all, count."""
    target_lock.take(job, _LOCK)
    previous = job.connection.execute(statements.delete(job.plan.target_name)).rowcount
    inserted, held = target_lock.insert(job), target_lock.count(job)
    target_lock.require_rows(job, written=inserted, held=held)
    return WrittenRows(inserted, 0, previous, 0, previous, held)

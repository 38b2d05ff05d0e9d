"""DELETE and INSERT: every reader, with an old snapshot too, sees the old rows or the new ones. Bloats the table."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import inplace, refusal, statements
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.target_table import TargetTable
from airflow_provider_safecopy.transfer.written import Written

_LOCK = "SHARE ROW EXCLUSIVE"


def refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """Rights, foreign keys that would spread the DELETE, and publications that would refuse it."""
    relation, label, role = table.relation, table.relation.label, table.session.server.role
    if not relation.may_delete:
        yield refusal.lacks(label, role, "DELETE")
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


def reluctance(table: TargetTable, spec: CopySpec) -> str | None:
    """Rows that others refer to cannot be deleted; and triggers that have rows other than they come."""
    relation = table.relation
    if relation.referenced_by:
        return f"it fails as soon as a row is referred to by {', '.join(relation.referenced_by)}"
    return refusal.meddling(relation)


def steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """Both statements."""
    return tuple(
        PlannedStep("publish", "target", statement.as_string(None), _LOCK)
        for statement in (statements.delete(plan.target_name), plan.insert())
    )


def prepare(job: Job) -> None:
    """Nothing."""


def write(job: Job, prepared: None) -> Written:
    """Delete all, insert all, count."""
    inplace.take(job, _LOCK)
    previous = job.connection.execute(statements.delete(job.plan.target_name)).rowcount
    inserted, held = inplace.insert(job), inplace.count(job)
    inplace.demand_rows(job, written=inserted, held=held)
    return Written(inserted, 0, previous, 0, previous, held)

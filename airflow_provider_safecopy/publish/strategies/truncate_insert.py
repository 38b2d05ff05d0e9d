"""TRUNCATE and INSERT: quick, without bloat; readers wait, and one with an older snapshot may see no rows. On request only."""

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

_LOCK = "ACCESS EXCLUSIVE"


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """The right, and foreign keys: a referenced table cannot be truncated alone."""
    relation, label, role = table.relation, table.relation.label, table.session.server.role
    if not relation.may_truncate:
        yield preflight.refuse_privilege(label, role, "TRUNCATE")
    if relation.referenced_by:
        yield Refusal(
            "referenced",
            f"{label} is referenced by {', '.join(relation.referenced_by)}: it cannot be truncated alone",
            table=label,
            hint="ask for publish=delta or publish=delete_insert",
        )


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """``auto`` never chooses it."""
    return "a reader with an older snapshot may see an empty table"


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """Both statements."""
    return tuple(
        PlannedStep("publish", "target", statement.as_string(None), _LOCK)
        for statement in (statements.truncate(plan.target_name), plan.build_insert())
    )


def prepare(job: PublishContext) -> None:
    """Nothing."""


def write(job: PublishContext, prepared: None) -> WrittenRows:
    """Count, truncate, insert all, count."""
    target_lock.take(job, _LOCK)
    previous = target_lock.count(job)
    job.connection.execute(statements.truncate(job.plan.target_name))
    inserted, held = target_lock.insert(job), target_lock.count(job)
    target_lock.require_rows(job, written=inserted, held=held)
    return WrittenRows(inserted, 0, previous, 0, previous, held)

"""TRUNCATE and INSERT: quick, without bloat; readers wait, and one with an older snapshot may see no rows. On request only."""

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

_LOCK = "ACCESS EXCLUSIVE"


def refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """The right, and foreign keys: a referenced table cannot be truncated alone."""
    relation, label, role = table.relation, table.relation.label, table.session.server.role
    if not relation.may_truncate:
        yield refusal.lacks(label, role, "TRUNCATE")
    if relation.referenced_by:
        yield Refusal(
            "referenced",
            f"{label} is referenced by {', '.join(relation.referenced_by)}: it cannot be truncated alone",
            table=label,
            hint="ask for publish=delta or publish=delete_insert",
        )


def reluctance(table: TargetTable, spec: CopySpec) -> str | None:
    """``auto`` never chooses it."""
    return "a reader with an older snapshot may see an empty table"


def steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """Both statements."""
    return tuple(
        PlannedStep("publish", "target", statement.as_string(None), _LOCK)
        for statement in (statements.truncate(plan.target_name), plan.insert())
    )


def prepare(job: Job) -> None:
    """Nothing."""


def write(job: Job, prepared: None) -> Written:
    """Count, truncate, insert all, count."""
    inplace.take(job, _LOCK)
    previous = inplace.count(job)
    job.connection.execute(statements.truncate(job.plan.target_name))
    inserted, held = inplace.insert(job), inplace.count(job)
    inplace.demand_rows(job, written=inserted, held=held)
    return Written(inserted, 0, previous, 0, previous, held)

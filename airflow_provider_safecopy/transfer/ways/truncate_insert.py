"""TRUNCATE and INSERT: quick, without bloat; readers wait, and one with an older snapshot may see no rows. On request only."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import inplace, refusal, statements
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.target_table import TargetTable
from airflow_provider_safecopy.transfer.written import WrittenRows

_LOCK = "ACCESS EXCLUSIVE"


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """The right, and foreign keys: a referenced table cannot be truncated alone."""
    relation, label, role = table.relation, table.relation.label, table.session.server.role
    if not relation.may_truncate:
        yield refusal.refuse_privilege(label, role, "TRUNCATE")
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
    inplace.take(job, _LOCK)
    previous = inplace.count(job)
    job.connection.execute(statements.truncate(job.plan.target_name))
    inserted, held = inplace.insert(job), inplace.count(job)
    inplace.require_rows(job, written=inserted, held=held)
    return WrittenRows(inserted, 0, previous, 0, previous, held)

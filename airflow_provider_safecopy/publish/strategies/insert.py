"""INSERT alone, for a slice that is appended: every reader sees all of it or nothing, and no one waits for anyone."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_safecopy.errors import Refusal, VerifyError
from airflow_provider_safecopy.planning.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import target_lock
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import CopySpec

# What INSERT takes itself. It stands beside readers and writers, and keeps the table from being altered.
_LOCK = "ROW EXCLUSIVE"


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """Nothing but what any target must bear."""
    yield from ()


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """It is never chosen, but asked for by ``write_mode="append"``."""
    return None


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """The one statement."""
    return (PlannedStep("publish", "target", plan.build_insert().as_string(None), _LOCK),)


def prepare(job: PublishContext) -> None:
    """Nothing."""


def write(job: PublishContext, prepared: None) -> WrittenRows:
    """Insert all. The table is not counted: it may be as long as history, and others may be writing to it."""
    target_lock.take(job, _LOCK)
    was_empty = target_lock.is_empty(job)
    staged, inserted = job.verification.rows, target_lock.insert(job)
    if inserted != staged:
        raise VerifyError(
            f"{job.plan.target_name}: {staged} rows were staged, {inserted} inserted; nothing was changed",
            proofs={"rows": {"staging": staged, "inserted": inserted}},
            hint="a trigger of the table swallows rows",
        )
    return WrittenRows(inserted, 0, 0, 0, None, None, was_empty)

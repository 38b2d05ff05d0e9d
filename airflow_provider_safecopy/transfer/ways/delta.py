"""DELTA: only rows that differ are written, by key. Every reader sees the old rows or the new ones, and none waits."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import difference, reconcile, refusal
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.statements.difference import Comparison
from airflow_provider_safecopy.transfer.target_table import TargetTable
from airflow_provider_safecopy.transfer.written import WrittenRows


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """A key that is missing or cannot serve, rights, and publications that would refuse UPDATE or DELETE."""
    return difference.refusals(table, spec, "delete")


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """Triggers that have rows other than they come: each night would find a difference, and fail."""
    return refusal.find_trigger_drawback(table.relation)


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """The comparison, and the one statement that writes."""
    return difference.steps(plan, "delete")


def prepare(job: PublishContext) -> Comparison:
    """Demand of staging a key for each row."""
    return difference.prepare(job, "delete")


def write(job: PublishContext, prepared: Comparison) -> WrittenRows:
    """Delete what has vanished, update what differs, insert what is new."""
    return reconcile.merge_rows(job, prepared)

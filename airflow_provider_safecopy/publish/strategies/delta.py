"""DELTA: only rows that differ are written, by key. Every reader sees the old rows or the new ones, and none waits."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import preflight
from airflow_provider_safecopy.planning.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import diff, merge
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.diff_statements import Comparison
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import CopySpec


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """A key that is missing or cannot serve, rights, and publications that would refuse UPDATE or DELETE."""
    return diff.refusals(table, spec, "delete")


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """Triggers that have rows other than they come: each night would find a difference, and fail."""
    return preflight.find_trigger_drawback(table.relation)


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """The comparison, and the one statement that writes."""
    return diff.steps(plan, "delete")


def prepare(job: PublishContext) -> Comparison:
    """Demand of staging a key for each row."""
    return diff.prepare(job, "delete")


def write(job: PublishContext, prepared: Comparison) -> WrittenRows:
    """Delete what has vanished, update what differs, insert what is new."""
    return merge.merge_rows(job, prepared)

"""UPSERT: rows are inserted or updated by key. What becomes of rows the source no longer has is `missing`'s to say."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.preflight import refuse_privilege
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres.names import spell
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import diff, merge
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.diff_statements import Comparison
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import CopySpec

_TIMESTAMP_PREFIXES = ("timestamp with", "timestamp(")


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """As for delta; and a `missing_column` that cannot be one."""
    yield from diff.refusals(table, spec, spec.missing)
    if spec.missing == "mark":
        yield from _check_missing_column(table.session, table.relation, spec, spec.missing_column or "")


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """It is never chosen, but asked for by ``write_mode``."""
    return None


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """The comparison, and the one statement that writes."""
    return diff.steps(plan, plan.spec.missing)


def prepare(job: PublishContext) -> Comparison:
    """Demand of staging a key for each row."""
    return diff.prepare(job, job.plan.spec.missing)


def write(job: PublishContext, prepared: Comparison) -> WrittenRows:
    """Update what differs, insert what is new, delete or mark what is missing if that is asked for."""
    return merge.merge_rows(job, prepared)


def _check_missing_column(session: Session, relation: Relation, spec: CopySpec, name: str) -> Iterator[Refusal]:
    label, column = relation.label, relation.column(name)
    if column is None:
        yield _refuse_missing_column(label, name, "does not exist")
    elif column.generated:
        yield _refuse_missing_column(label, name, "is generated")
    elif column.type == "boolean" or (column.type.startswith(_TIMESTAMP_PREFIXES) and not column.not_null):
        if relation.may_insert and not column.may_insert:
            yield refuse_privilege(label, session.server.role, f"INSERT on column {spell(name)}", name)
    elif column.type.startswith(_TIMESTAMP_PREFIXES):
        yield _refuse_missing_column(label, name, "may not be NULL, as it must be for rows that are there")
    else:
        yield _refuse_missing_column(label, name, f"is {column.type}")


def _refuse_missing_column(label: str, name: str, problem: str) -> Refusal:
    message = f"{label}: the missing_column {spell(name)} {problem}"
    hint = "name a column of the target's own: a timestamp that may be NULL, or a boolean"
    return Refusal("missing_column", message, label, spell(name), hint)

"""Create: the target is made, with its rows, keys and comments, in the one transaction; every reader sees no table, or
the whole one. A reader whose snapshot is older than the table sees it, once committed, without rows: for that reader
there is none yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.planning import catalog, table_statements
from airflow_provider_safecopy.planning.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.table_definition import Definition
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import target_lock
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import CopySpec

_CATALOG = sql.load("catalog")
_LOCK = "none that others could wait for"
# A table or a type of the name has come, and been committed, since we looked.
_ALREADY_EXISTS = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation)


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """It is for no table that is there; what speaks against making one is found by `creation`."""
    yield from ()


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """There is nothing to choose."""
    return None


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """The table, its rows, its keys, and what is said of them."""
    made, name = _require_definition(plan), plan.target_name
    keys = (table_statements.add_key(name, key) for key in made.keys)
    wanted = (
        table_statements.create_table(name, made),
        plan.build_insert(),
        *keys,
        *table_statements.comments(name, made),
    )
    return tuple(PlannedStep("publish", "target", statement.as_string(None), _LOCK) for statement in wanted)


def prepare(job: PublishContext) -> None:
    """Nothing."""


def write(job: PublishContext, prepared: None) -> WrittenRows:
    """Make the table, insert all, add the keys, count.

    Raises `PlanError`, worth a retry, when another session has made one of this name meanwhile.
    """
    plan, made = job.plan, _require_definition(job.plan)
    if catalog.describe(job.target, plan.target_name) is not None:
        raise _changed_error(plan)
    try:
        job.connection.execute(table_statements.create_table(plan.target_name, made))
    except _ALREADY_EXISTS as error:
        raise _changed_error(plan) from error
    job.connection.execute(_CATALOG["as_the_role"])
    inserted = target_lock.insert(job)
    for key in made.keys:
        job.connection.execute(table_statements.add_key(plan.target_name, key))
    for comment in table_statements.comments(plan.target_name, made):
        job.connection.execute(comment)
    held = target_lock.count(job)
    target_lock.require_rows(job, written=inserted, held=held)
    return WrittenRows(inserted, 0, 0, 0, 0, held, was_empty=True)


def _require_definition(plan: CopyPlan) -> Definition:
    assert plan.definition is not None  # noqa: S101 -- `creation` has made it, or refused
    return plan.definition


def _changed_error(plan: CopyPlan) -> PlanError:
    table = str(plan.target_name)
    message = f"{table} was not there when this copy was planned, and has been made since"
    return PlanError((Refusal("target_changed", message, table, hint="run the copy again"),), retryable=True)

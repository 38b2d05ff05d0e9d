"""The common part of strategies that write into the table as it stands."""

from __future__ import annotations

from typing import LiteralString

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal, VerifyError
from airflow_provider_safecopy.planning import catalog
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.keys import read_references
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.publish.context import PublishContext

_CATALOG = sql.load("catalog")
_KEY = sql.load("key")


def take(job: PublishContext, mode: LiteralString) -> None:
    """Lock the target, see that it is the table of the plan, and give triggers the role's own settings back.

    Raises `PlanError`, worth a retry, when the table has changed since.
    """
    with job.target.limit_lock_wait(job.lock_step):
        job.connection.execute(statements.lock(job.plan.target_name, mode))
    require_same_table(job)
    job.connection.execute(_CATALOG["as_the_role"])


def stop_autovacuum(job: PublishContext) -> None:
    """Autovacuum does not yield to waits as short as ours for the real lock. This one queues no reader or writer."""
    job.connection.execute(_CATALOG["outlast_deadlock_timeout"])
    job.connection.execute(statements.lock(job.plan.target_name, "SHARE UPDATE EXCLUSIVE"))
    job.connection.execute(statements.set_timeout("lock_timeout", job.lock_step))


def require_same_table(job: PublishContext) -> None:
    """Raises `PlanError`, worth a retry, when the target is not the table of the plan any more."""
    plan = job.plan
    now, then = catalog.describe(job.target, plan.target_name), plan.target_relation
    if now is None or then is None or _nature(now) != _nature(then):
        changed = f"{plan.target_name} is not the table it was when this copy was planned"
        refusal = Refusal("target_changed", changed, str(plan.target_name), hint="run the copy again")
        raise PlanError((refusal,), retryable=True)
    _require_known_kin(job, [str(each) for each in now.kin if each not in then.kin])


def _nature(relation: Relation) -> tuple[object, ...]:
    """Return what the plan relied on: a key or a child that came later would lose rows that are not ours."""
    spreads = relation.has_children, relation.deletes_spread_by
    return (relation.oid, relation.columns, *spreads, relation.rules, relation.filtered)


def _require_known_kin(job: PublishContext, came: list[str]) -> None:
    """Raise a retryable `PlanError` if a table that copies write into was attached since planning.

    Our lock did not exclude its copy, which may have published newer rows.
    """
    if not came or not (
        copied := [row["name"] for row in job.target.fetch_all(_CATALOG["ever_locked"], {"names": came})]
    ):
        return
    message = f"{job.plan.target_name} and {', '.join(copied)} became partition and parent after this copy was planned"
    refusal = Refusal("target_changed", message, str(job.plan.target_name), hint="run the copy again")
    raise PlanError((refusal,), retryable=True)


def is_empty(job: PublishContext) -> bool:
    """Return whether the target holds no row; asked under its lock, before anything is written."""
    return not job.target.fetch_value(statements.any_row(statements.select((), job.plan.target_name, None)))


def insert(job: PublishContext) -> int:
    """Insert all of staging. Returns how many rows went in."""
    return job.connection.execute(job.plan.build_insert(job.verification.staging)).rowcount


def count(job: PublishContext, table: TableName | None = None) -> int:
    """Return how many rows the target (or `table`) holds now."""
    return int(job.target.fetch_value(statements.count(table or job.plan.target_name)))


def require_rows(job: PublishContext, *, written: int, held: int, expected: int | None = None) -> None:
    """Raise `VerifyError` unless all of staging was written, and the table holds what it must (`expected`; None means staging's rows).

    Raises `VerifyError`.
    """
    staged, table = job.verification.rows, job.plan.target_name
    wanted = staged if expected is None else expected
    if staged != written or wanted != held:
        raise VerifyError(
            f"{table}: {staged} rows were staged, {written} inserted, and the table then held {held} "
            f"of {wanted}; nothing was changed",
            proofs={"rows": {"staging": staged, "inserted": written, "held": held, "expected": wanted}},
            hint=find_suspects(job),
        )


def find_suspects(job: PublishContext) -> str:
    """Return what changed rows as they were written: the table's triggers, or actions of its own foreign keys."""
    job.connection.execute(statements.set_local("search_path", "pg_catalog"))
    oid = job.plan.target_oid
    acting = [
        f"{spell(each.name)} ({clauses})" for each in read_references(job.target, oid) if (clauses := each.own_actions)
    ]
    has_triggers = not acting or job.target.fetch_value(_KEY["has_triggers"], {"oid": oid})
    suspects = ["a trigger of the table"] if has_triggers else []
    if acting:
        suspects.append(f"an action of its own foreign key {', '.join(acting)}")
    told = f"{' or '.join(suspects)} adds, changes or swallows rows"
    instead = ", or ask for publish=truncate_insert" if job.plan.spec.write_mode == "replace" else ""
    return f"{told}: take that action off the foreign key{instead}" if acting else told

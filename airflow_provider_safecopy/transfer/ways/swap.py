"""Swap: the new table is built beforehand, and in a few milliseconds takes the old one's place, name and all.

Rows are loaded frozen: visible to every snapshot, so that a reader whose snapshot is older sees the new rows, and
never none. Whoever has touched the table in a transaction still open is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.transfer import build, carry, inplace, statements
from airflow_provider_safecopy.transfer.build import Build
from airflow_provider_safecopy.transfer.carry import Carried
from airflow_provider_safecopy.transfer.catalog import Relation
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.model import MiB
from airflow_provider_safecopy.transfer.plan import STAGING, CopyPlan, PlannedStep
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.statements.rows import together
from airflow_provider_safecopy.transfer.written import Written

COUNTED_BYTES = 16 * MiB
"""The old rows of a table up to this size are counted, for the report; of a larger one only where `max_shrink` asks."""

_LOCK = "ACCESS EXCLUSIVE"
_SIZE = sql.load("catalog")["size"]


@dataclass(frozen=True)
class Prepared:
    """A table ready to take the target's place, and what else hangs on the target: both as they were seen."""

    build: Build
    carried: Carried
    previous: int | None


def refusals(session: Session, relation: Relation, spec: CopySpec) -> Iterator[Refusal]:
    """What cannot be built anew, and what cannot be carried over; for ``auto`` also who would get no rows."""
    if spec.publish == "auto" and (wrong_to_others := carry.deprived(session, relation)) is not None:
        yield wrong_to_others
    wrong = tuple(build.refusals(session, relation, copied(relation, spec)))
    yield from wrong
    known = {(refusal.code, refusal.message) for refusal in wrong}
    yield from (
        refusal for refusal in carry.refusals(session, relation) if (refusal.code, refusal.message) not in known
    )


def reluctance(session: Session, relation: Relation, spec: CopySpec) -> str | None:
    """What is lost for a while, though it is rightly done."""
    return carry.reluctance(session, relation)


def copied(relation: Relation, spec: CopySpec) -> frozenset[str]:
    """The columns of the target that the source fills; the others get their defaults."""
    wanted = None if spec.columns is None else set(spec.columns.values())
    return frozenset(
        column.name for column in relation.columns if not column.generated and (wanted is None or column.name in wanted)
    )


def steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """All of it, as the target is now; names that hang on the token are other ones then."""
    relation = plan.target_relation
    assert relation is not None  # noqa: S101 -- a plan without a target is refused
    made = build.statements_of(session, relation, STAGING, frozenset(plan.target_columns))
    carried = carry.carried(session, relation, STAGING)
    lock = statements.lock(plan.target_name, _LOCK).as_string(None)
    exchange = [*carried.first, lock, *_texts(made, "hold"), *carried.before, *_texts(made, "rename")]
    exchange += [*carried.after, *_texts(made, "finish")]
    return (
        *(PlannedStep("import", "target", text, "none on your tables") for text in _texts(made, "create")),
        *(PlannedStep("prepare", "target", text, "none on the target") for text in _texts(made, "build")),
        *(PlannedStep("publish", "target", text, _LOCK) for text in exchange),
    )


def prepare(job: Job) -> Prepared:
    """Build indexes, constraints and statistics, and see what hangs on the target. Nobody waits meanwhile."""
    relation, staging = _relation(job), job.verification.staging
    if wrong := tuple(refusals(job.target, relation, job.plan.spec)):
        raise PlanError(wrong, retryable=True)
    planned = _built(job)
    if not build.is_current(job.target, staging, planned):
        raise _changed(job)
    build.finish(job, planned)
    previous = _previous(job)
    # Once more: what the server gave the new sequences by itself is known only now.
    return Prepared(_built(job), _carried(job), previous)


def _previous(job: Job) -> int | None:
    """How many rows will go. To know it for a large table would cost a twentieth of its copy: only where a guard asks."""
    size: int | None = job.target.value(_SIZE, {"oid": job.plan.target_oid})
    if size is None:  # it has been dropped
        raise _changed(job)
    if job.plan.spec.max_shrink is None and size > COUNTED_BYTES:
        return None
    with job.connection.transaction():
        job.connection.execute(statements.set_timeout("statement_timeout", job.seconds_left))
        return inplace.count(job)


def write(job: Job, prepared: Prepared) -> Written:
    """Demand that nothing has changed, lock, demand it once more, exchange.

    `previous` was counted before: there is no time for it now.
    """
    inplace.demand_same_table(job)
    _demand_unchanged(job, prepared)
    began = time.monotonic()
    _within(job, began, prepared.carried.first)
    _within(job, began, [statements.lock(job.plan.target_name, _LOCK)])
    _demand_unchanged(job, prepared)
    _within(job, began, _texts(prepared.build, "hold"))
    exchange = (*prepared.carried.before, *_texts(prepared.build, "rename"), *prepared.carried.after)
    _run(job, (*exchange, *_texts(prepared.build, "finish")))
    rows = job.verification.rows
    return Written(rows, 0, prepared.previous, 0, prepared.previous, rows)


def _demand_unchanged(job: Job, prepared: Prepared) -> None:
    if _built(job) != prepared.build or _carried(job) != prepared.carried:
        raise _changed(job)


def _texts(made: Build, phase: build.Phase) -> list[str]:
    return [step.statement for step in made.phase(phase)]


def _within(job: Job, began: float, wanted: Iterable[Composed | str]) -> None:
    """What may have to wait for a lock, within one step for all: readers queue behind us from the first we wait for."""
    for statement in wanted:
        left = began + job.lock_step - time.monotonic()
        step = together((statements.set_timeout("lock_timeout", max(0.001, left)), statement))
        with job.target.waiting(job.lock_step):
            job.connection.execute(step)


def _run(job: Job, wanted: Sequence[str]) -> None:
    """In one message: readers do not wait for the way between us and the server."""
    job.connection.execute(together(wanted))


def _built(job: Job) -> Build:
    columns = frozenset(job.plan.target_columns)
    return build.statements_of(job.target, _relation(job), job.verification.staging, columns)


def _carried(job: Job) -> Carried:
    return carry.carried(job.target, _relation(job), job.verification.staging)


def _relation(job: Job) -> Relation:
    relation = job.plan.target_relation
    assert relation is not None  # noqa: S101 -- a plan without a target is refused
    return relation


def _changed(job: Job) -> PlanError:
    table = str(job.plan.target_name)
    message = f"{table} is not the table it was when the new one was built, or something else hangs on it"
    return PlanError((Refusal("target_changed", message, table, hint="run the copy again"),), retryable=True)

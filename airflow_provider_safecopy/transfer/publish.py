"""Publish: one transaction turns the old rows into the new ones, with the receipt that proves it.

Fence, lock, write, read back, receipt, COMMIT. A lost answer to COMMIT is settled by reading the receipt,
never by trying again.
"""

from __future__ import annotations

import logging
import random
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import (
    PlanError,
    PublishUnknownError,
    Refusal,
    StageError,
    StageTimeoutError,
    VerifyError,
)
from airflow_provider_safecopy.transfer import catalog, statements
from airflow_provider_safecopy.transfer.model import StageReport
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session, end_stage_sessions, open_session
from airflow_provider_safecopy.transfer.verify import Verification

log = logging.getLogger(__name__)

_RECEIPT = sql.load("receipt")
_CATALOG = sql.load("catalog")
# A lock is asked for in short steps: whoever waits for it queues later readers behind itself.
_LOCK_STEP_SECONDS = 0.2
_PAUSE_SECONDS = (0.05, 0.3)
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class Receipt:
    """Who publishes, under which right; with the proofs it becomes a row of `safecopy.receipt`."""

    lock: str
    token: int
    lease_id: UUID
    attempt: UUID
    owner: str
    application_name: str


@dataclass(frozen=True)
class Published:
    """A committed publish: how many rows the target holds now, and held before."""

    rows: int
    previous_rows: int
    report: StageReport


@dataclass(frozen=True)
class _Job:
    """What every step of one publish needs."""

    plan: CopyPlan
    verification: Verification
    receipt: Receipt
    target: Session
    fence: Callable[[psycopg.Connection[Any]], None]
    abort: AbortSwitch
    trying: Callable[[], None]
    deadline: float


def publish(
    plan: CopyPlan,
    verification: Verification,
    receipt: Receipt,
    *,
    target: Session,
    fence: Callable[[psycopg.Connection[Any]], None],
    abort: AbortSwitch,
    trying: Callable[[], None] = lambda: None,
) -> Published:
    """Publish what `verification` proves. `fence` must raise inside the transaction when the lock is lost.

    `trying` is called before each try at a table that others have locked.

    Raises `FencedOutError`, `StageError` and its kinds, `VerifyError` when the table does not hold what was
    written (a trigger?), `PublishUnknownError` when nobody can tell. In all but the last nothing changed.
    """
    started = time.monotonic()
    job = _Job(plan, verification, receipt, target, fence, abort, trying, started + plan.spec.timeouts.publish)
    try:
        with target.within(plan.spec.timeouts.publish + 10):
            previous = _until_locked(job)
            _commit(job)
    except psycopg.Error as error:
        target.end_transaction()
        raise _translated(plan, error) from error
    except BaseException:
        target.end_transaction()
        raise
    rows, seconds = verification.rows, time.monotonic() - started
    log.info("publish done: %s holds %d rows (before: %d), %.2f s", plan.target_name, rows, previous, seconds)
    return Published(rows, previous, StageReport("publish", seconds, rows=rows))


def _until_locked(job: _Job) -> int:
    """Everything but COMMIT; again from the start as long as somebody else holds the table."""
    vacuumed = False
    while True:
        job.abort.check()
        job.trying()
        try:
            with job.target.obeys(job.abort):
                job.target.connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
                previous = _write(job, vacuumed=vacuumed)
            job.abort.check()
        except psycopg.errors.LockNotAvailable as error:
            job.target.end_transaction()
            if time.monotonic() > job.deadline:
                raise _still_locked(job) from error
            vacuumed = bool(job.target.value(_CATALOG["vacuumed"], {"oid": job.plan.target_oid}))
            select.select([job.abort.fileno()], [], [], random.uniform(*_PAUSE_SECONDS))  # noqa: S311 -- jitter
        else:
            return previous


def _write(job: _Job, *, vacuumed: bool) -> int:
    """Fence, lock, write, read back, receipt. Returns how many rows were there before."""
    connection, plan, staged = job.target.connection, job.plan, job.verification
    connection.execute(statements.set_timeout("statement_timeout", max(1.0, job.deadline - time.monotonic())))
    connection.execute(statements.set_timeout("lock_timeout", _LOCK_STEP_SECONDS))
    connection.execute(_RECEIPT["durable"])
    job.fence(connection)
    if vacuumed:
        _stop_autovacuum(job)
    previous = _emptied(job)
    columns, identity = plan.target_columns, plan.keeps_identity
    insert = statements.insert(plan.target_name, staged.staging, columns, identity=identity)
    written = connection.execute(insert).rowcount
    _demand_rows(plan, staged.rows, written, int(job.target.value(statements.count(plan.target_name))))
    connection.execute(statements.drop_staging(staged.staging))
    connection.execute(_RECEIPT["write"], _row(job, previous))
    return previous


def _stop_autovacuum(job: _Job) -> None:
    """It gives way to nobody who waits as shortly as we do for the real lock. This one queues no reader or writer."""
    connection, table = job.target.connection, job.plan.target_name
    connection.execute(_CATALOG["outlast_deadlock_timeout"])
    connection.execute(statements.lock(table, "SHARE UPDATE EXCLUSIVE"))
    connection.execute(statements.set_timeout("lock_timeout", _LOCK_STEP_SECONDS))


def _emptied(job: _Job) -> int:
    """Lock the target against writers (TRUNCATE: against readers too), and remove its rows."""
    connection, table = job.target.connection, job.plan.target_name
    truncating = job.plan.publish == "truncate_insert"
    connection.execute(statements.lock(table, "ACCESS EXCLUSIVE" if truncating else "SHARE ROW EXCLUSIVE"))
    _demand_same_table(job.plan, job.target)
    connection.execute(_CATALOG["as_the_role"])
    if not truncating:
        return connection.execute(statements.delete(table)).rowcount
    previous = int(job.target.value(statements.count(table)))
    connection.execute(statements.truncate(table))
    return previous


def _demand_same_table(plan: CopyPlan, target: Session) -> None:
    now, then = catalog.describe(target, plan.target_name), plan.target_relation
    if now is None or then is None or (now.oid, now.columns) != (then.oid, then.columns):
        changed = f"{plan.target_name} is not the table it was when this copy was planned"
        refusal = Refusal("target_changed", changed, str(plan.target_name), hint="run the copy again")
        raise PlanError((refusal,), retryable=True)


def _demand_rows(plan: CopyPlan, wanted: int, written: int, held: int) -> None:
    if not wanted == written == held:
        raise VerifyError(
            f"{plan.target_name}: {wanted} rows were staged, {written} inserted, and the table then held {held}; "
            "nothing was changed",
            proofs={"rows": {"staging": wanted, "inserted": written, "held": held}},
            hint="a trigger of the table adds or swallows rows",
        )


def _row(job: _Job, previous: int) -> dict[str, Any]:
    plan, receipt = job.plan, job.receipt
    decisions = {"format": plan.format, "publish": plan.publish, "verify": plan.spec.verify}
    return {
        "lock": receipt.lock,
        "token": receipt.token,
        "lease_id": receipt.lease_id,
        "attempt": receipt.attempt,
        "owner_key": receipt.owner,
        "source": plan.source,
        "target": str(plan.target_name),
        "row_count": job.verification.rows,
        "previous_rows": previous,
        "proof": Jsonb(job.verification.proof | decisions),
    }


def _commit(job: _Job) -> None:
    try:
        job.target.connection.execute("COMMIT")
    except psycopg.OperationalError as error:
        if not job.target.connection.closed:
            raise
        if not _settled(job):
            raise StageError(
                f"publish: the connection was lost before COMMIT; {job.plan.target_name} is unchanged",
                stage="publish",
                sqlstate=error.sqlstate,
            ) from error
        log.warning("publish: the answer to COMMIT was lost, the receipt says it happened")


def _settled(job: _Job) -> bool:
    """Whether the lost COMMIT happened. The old session is ended first: a COMMIT in flight could come later."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            return _receipt_is_there(job)
        except (StageError, psycopg.Error) as error:
            if time.monotonic() > deadline:
                raise _unknown(job) from error
            log.warning("publish: the answer to COMMIT was lost; asking again for the receipt: %s", error)
            time.sleep(1.0)


def _receipt_is_there(job: _Job) -> bool:
    name, timeout = job.receipt.application_name, job.plan.spec.timeouts.connect
    with open_session(job.target.endpoint, application_name=name, connect_timeout=timeout) as fresh:
        end_stage_sessions(fresh, application_name=name, spared=(fresh.server.backend,))
        asked = {"attempt": job.receipt.attempt, "token": job.receipt.token}
        return bool(fresh.value(_RECEIPT["settled"], asked))


def _unknown(job: _Job) -> PublishUnknownError:
    table, where = job.plan.target_name, job.target.endpoint
    return PublishUnknownError(
        f"publish: COMMIT of {table} was sent, its answer lost, and {where} cannot be asked",
        table=str(table),
        token=job.receipt.token,
        attempt=str(job.receipt.attempt),
    )


def _still_locked(job: _Job) -> StageTimeoutError:
    plan, target = job.plan, job.target
    asked = {"oid": plan.target_oid, "exclusive": plan.publish == "truncate_insert"}
    holders = [
        f"pid {row['pid']} ({row['role']}, {row['application_name'] or 'no name'}, {row['mode']}, since {row['age']})"
        for row in target.all(_CATALOG["lockers"], asked)
    ]
    return StageTimeoutError(
        f"publish: {plan.target_name} stayed locked for {plan.spec.timeouts.publish:g} s by {', '.join(holders) or 'others'}",
        stage="publish",
        sqlstate="55P03",
        hint="end the session that holds it, or raise publish_timeout",
    )


def _translated(plan: CopyPlan, error: psycopg.Error) -> StageError:
    kind = StageTimeoutError if isinstance(error, psycopg.errors.QueryCanceled) else StageError
    violated = isinstance(error, psycopg.IntegrityError | psycopg.DataError)
    return kind(
        f"publish into {plan.target_name} failed: {str(error).strip()}; nothing was changed",
        stage="publish",
        sqlstate=error.sqlstate,
        retryable=not violated and error.sqlstate != "42501",
    )

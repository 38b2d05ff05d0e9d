"""The publishing transaction, its COMMIT, and what is known when the answer to that is lost.

Fence, lock, write, read back, receipt, COMMIT. A lost answer to COMMIT is settled by reading the receipt,
never by trying again. How the rows are written is a way's affair; see `ways`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg.sql import SQL

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import PublishUnknownError, StageError, StageTimeoutError, may_pass
from airflow_provider_safecopy.lock.model import Lease
from airflow_provider_safecopy.planning import history as slices
from airflow_provider_safecopy.planning import keys, row_checks
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.lookout import lock_wait_error
from airflow_provider_safecopy.postgres.session import SILENT_SECONDS, Session, end_stage_sessions, open_session
from airflow_provider_safecopy.postgres.statements import together
from airflow_provider_safecopy.publish import (
    maintenance,
    receipt,
    schema_drift,
    sequences,
    strategy_choice,
    target_lock,
)
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.lock_waits import Blockers
from airflow_provider_safecopy.publish.receipt import Receipt, WatermarkChange
from airflow_provider_safecopy.publish.sequences import Peaks
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.publish.strategy_choice import LeaveSwapError, SwapPatience
from airflow_provider_safecopy.report import StageReport, WrittenRows
from airflow_provider_safecopy.spec import Strategy
from airflow_provider_safecopy.transfer.verify import Verification

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
# A server that crashed needs some seconds; a person who gives a publish less time than this wants to hear of it sooner.
_SETTLE_SECONDS, _SETTLE_BEYOND = 60.0, 8.0


def commit(job: PublishContext) -> None:
    """Commit. Raises `StageError` when it certainly did not happen, `PublishUnknownError` when it cannot be known."""
    try:
        job.connection.execute("COMMIT")
    except psycopg.OperationalError as error:
        if not job.connection.closed:
            raise
        if not _settle_commit(job):
            raise StageError(
                f"publish: the connection was lost before COMMIT; {job.plan.target_name} is unchanged",
                stage="publish",
                sqlstate=error.sqlstate,
            ) from error
        log.warning("publish: the answer to COMMIT was lost, the receipt says it happened: %s", describe(error))


def _settle_commit(job: PublishContext) -> bool:
    """Return whether the lost COMMIT happened. The old session is ended first: a COMMIT in flight could come later."""
    deadline = time.monotonic() + min(_SETTLE_SECONDS, job.plan.spec.timeouts.publish + _SETTLE_BEYOND)
    while True:
        try:
            return _receipt_is_there(job)
        except (StageError, psycopg.Error) as error:
            if time.monotonic() > deadline:
                raise _unknown(job) from error
            log.warning("publish: the answer to COMMIT was lost; asking again for the receipt: %s", error)
            time.sleep(1.0)


def _receipt_is_there(job: PublishContext) -> bool:
    name, timeout = job.application_name, job.plan.spec.timeouts.connect
    with open_session(
        job.target.endpoint, application_name=name, connect_timeout=timeout, patience=_ANSWER_SECONDS
    ) as fresh:
        end_stage_sessions(fresh, application_name=name, kept_backends=(fresh.server.backend,))
        return receipt.is_committed(fresh, job)


def _unknown(job: PublishContext) -> PublishUnknownError:
    table, where = job.plan.target_name, job.target.endpoint
    return PublishUnknownError(
        f"publish: COMMIT of {table} was sent, its answer lost, and {where} cannot be asked",
        table=str(table),
        token=job.lease.token,
        attempt=str(job.attempt),
    )


_RECEIPT = sql.load("receipt")
# Between two statements of the publish nothing is done here that takes time.
_IDLE_SECONDS = 15.0
_GLANCE_SECONDS = 0.01
_PREPARING: frozenset[Strategy] = frozenset({"swap", "delta", "upsert"})
"""The ways that do something before the transaction."""


@dataclass(frozen=True)
class PublishResult:
    """A committed publish: what was written, and warnings about what came after it.

    `plan` is what was done in the end; its way differs from the planned one if the swap gave way.
    """

    plan: CopyPlan
    written: WrittenRows
    warnings: tuple[str, ...]
    reports: tuple[StageReport, ...]
    receipt: Receipt


def publish(
    plan: CopyPlan,
    verification: Verification,
    lease: Lease,
    *,
    target: Session,
    fence: Callable[[psycopg.Connection[Any]], None],
    abort: AbortSwitch,
    on_try: Callable[[], None] = lambda: None,
    drops_staging: bool = True,
    attempt: UUID | None = None,
) -> PublishResult:
    """Publish what `verification` proves. `fence` must raise inside the transaction when the lock is lost.

    `on_try` is called before each try at a table that others have locked. With `drops_staging` the staging table goes in the
    same transaction, unless another session reads it: that is not waited for, and it is left to the caller. `attempt`, by
    default the lease's, is the receipt's: one lease of a batch publishes many tables.

    Raises `FencedOutError`, `StageError` and its kinds, `VerifyError` when the table does not hold what was
    written (a trigger?), `PublishUnknownError` when it cannot be known. In all but the last nothing changed.
    """
    started = time.monotonic()
    deadline = started + plan.spec.timeouts.publish
    job = PublishContext(plan, verification, lease, attempt or lease.attempt, target, fence, abort, on_try, deadline)
    try:
        with target.limit_answer(plan.spec.timeouts.publish + SILENT_SECONDS):
            with target.cancel_on_abort(abort):
                if plan.publish in _PREPARING or schema_drift.adds_columns(plan):
                    # Asked again where it counts; here it spares a run that has lost its lock the work, and tells it so.
                    with target.connection.transaction(force_rollback=True):
                        fence(target.connection)
                job = schema_drift.widen(job)
                try:
                    before = _prepare(job, drops_staging=drops_staging)
                except StageError as error:
                    job = strategy_choice.replace_unbuildable(job, error)
                    before = _prepare(job, drops_staging=drops_staging)
            ready = time.monotonic()
            with Blockers(job) as blockers:
                try:
                    done = _write_when_locked(job, before, blockers)
                except LeaveSwapError as left:
                    job, before = _prepare_instead(left.job, before)
                    blockers.go_on_with(job)
                    done = _write_when_locked(job, before, blockers)
                commit(job)
    except psycopg.Error as error:
        target.end_transaction()
        raise schema_drift.note_added_columns(job, _translate_error(job, error)) from error
    except BaseException as error:
        target.end_transaction()
        if isinstance(error, StageError) and (order := _order(job, error.__cause__)):
            error.hint = order
        schema_drift.note_added_columns(job, error)
        raise
    seconds = time.monotonic() - ready
    log.info("publish done: %s %s, %.2f s", plan.target_name, done.written, seconds)
    warnings, settled = maintenance.settle(job, done.written)
    reports = (
        *((StageReport("prepare", ready - started, rows=verification.rows),) if before.prepared is not None else ()),
        StageReport("publish", seconds, rows=done.written.current_rows),
        *settled,
    )
    told = (*done.receipt.warnings, *blockers.warnings, *done.warnings, *warnings)
    return PublishResult(job.plan, done.written, told, reports, done.receipt)


@dataclass(frozen=True)
class _Preparation:
    """The work and the decisions before the transaction."""

    prepared: Any
    watermark_change: WatermarkChange | None
    peaks: Peaks | None
    drops_staging: bool


@dataclass(frozen=True)
class _Uncommitted:
    """The finished work before COMMIT, and what to report of it."""

    written: WrittenRows
    receipt: Receipt
    warnings: tuple[str, ...]


def _prepare(job: PublishContext, *, drops_staging: bool) -> _Preparation:
    """Do what can be done before the transaction."""
    prepared = STRATEGIES[job.plan.publish].prepare(job)
    move = receipt.decide_change(job)
    # A swap has no time for it later; in other ways a trigger may change what is written.
    peaks = sequences.read_peaks(job, job.verification.staging) if job.plan.publish == "swap" else None
    return _Preparation(prepared, move, peaks, drops_staging)


def _prepare_instead(job: PublishContext, before: _Preparation) -> tuple[PublishContext, _Preparation]:
    """Prepare the way that replaces a swap, with the same staging table and the same proofs."""
    with job.target.cancel_on_abort(job.abort):
        return job, replace(before, prepared=STRATEGIES[job.plan.publish].prepare(job), peaks=None)


def _write_when_locked(job: PublishContext, before: _Preparation, blockers: Blockers) -> _Uncommitted:
    """Do everything but COMMIT; again from the start as long as another session holds the table."""
    patience = SwapPatience(job)

    def work(trying: PublishContext) -> _Uncommitted:
        with trying.target.cancel_on_abort(trying.abort):
            done = _write(trying, before, vacuumed=blockers.vacuumed)
        trying.abort.check()
        return done

    return blockers.outlast(work, held_up=lambda: patience.check_blockers(blockers))


def _write(job: PublishContext, before: _Preparation, *, vacuumed: bool) -> _Uncommitted:
    """Begin, fence, lock, write, read back, receipt, sequences."""
    job.connection.execute(
        SQL("; ").join(
            [
                SQL("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
                statements.set_timeout("statement_timeout", job.seconds_left),
                statements.set_timeout("lock_timeout", job.lock_step),
                # Readers may wait for this transaction: it ends when its process is gone without a word, or stands still.
                statements.set_timeout("idle_in_transaction_session_timeout", _IDLE_SECONDS),
                SQL(_RECEIPT["durable"]),
            ]
        )
    )
    job.fence(job.connection)
    if job.plan.spec.write_mode == "append":
        follows = job.plan.history.previous_receipt if job.plan.history else 0
        slices.require_unchanged_append(job.target, job.plan.target_name, str(job.plan.spec.append_key), follows)
    if vacuumed:
        target_lock.stop_autovacuum(job)
    written = STRATEGIES[job.plan.publish].write(job, before.prepared)
    row_checks.require_size(job.plan, previous=written.previous_rows, held=written.current_rows)
    receipt.require_no_sibling(
        job.target, job.plan, job.lease.contender
    )  # under the table's lock, which waits for a sibling's COMMIT
    if before.drops_staging:
        _drop_unread_staging(job)
    entered = receipt.write_receipt(job, written, before.watermark_change)
    return _Uncommitted(written, entered, tuple(sequences.advance_sequences(job, before.peaks)))


def _drop_unread_staging(job: PublishContext) -> None:
    """Drop staging, unless a dump of the whole database reads it, say: the target would be locked as long as that takes."""
    with suppress(psycopg.errors.LockNotAvailable), job.connection.transaction():
        drop = (
            statements.set_timeout("lock_timeout", _GLANCE_SECONDS),
            statements.drop_staging(job.verification.staging),
            statements.set_timeout("lock_timeout", job.lock_step),
        )
        job.connection.execute(together(drop))


def _translate_error(job: PublishContext, error: psycopg.Error) -> StageError:
    plan = job.plan
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return lock_wait_error(
            error, "publish", f"{plan.target_name} or a table that publishing needs", job.target.lookout
        )
    kind = StageTimeoutError if isinstance(error, psycopg.errors.QueryCanceled) else StageError
    return kind(
        f"publish into {plan.target_name} failed: {describe(error)}; nothing was changed",
        stage="publish",
        sqlstate=error.sqlstate,
        hint=_order(job, error),
        retryable=may_pass(error.sqlstate),
    )


def _order(job: PublishContext, error: BaseException | None) -> str:
    """Return the order of copies that works after a violated foreign key; empty where the session cannot be asked."""
    try:
        return "" if job.connection.closed else keys.name_order(job.target, job.plan.target_oid, error)
    except psycopg.Error as lost:
        log.debug("%s: the tables of a foreign key were not read: %s", job.target.endpoint, lost)
        return ""

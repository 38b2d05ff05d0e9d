"""COMMIT, and what is known when its answer is lost."""

from __future__ import annotations

import logging
import time

import psycopg

from airflow_provider_safecopy.diagnosis import describe
from airflow_provider_safecopy.errors import PublishUnknownError, StageError
from airflow_provider_safecopy.transfer import receipt
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.session import end_stage_sessions, open_session

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
# A server that crashed needs some seconds; whoever gives a publish less time than this wants to hear of it sooner.
_SETTLE_SECONDS, _SETTLE_BEYOND = 60.0, 8.0


def commit(job: PublishContext) -> None:
    """Commit. Raises `StageError` when it certainly did not happen, `PublishUnknownError` when nobody can tell."""
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
    """Whether the lost COMMIT happened. The old session is ended first: a COMMIT in flight could come later."""
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

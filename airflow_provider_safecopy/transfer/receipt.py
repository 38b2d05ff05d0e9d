"""The receipt: the proof of a publish, committed with the data it proves."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.job import Job, Right
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.written import Written

_RECEIPT = sql.load("receipt")


def write(job: Job, written: Written) -> None:
    """Write it, in the publishing transaction."""
    job.connection.execute(_RECEIPT["write"], _row(job, written))


def is_there(session: Session, right: Right) -> bool:
    """Whether the publish under this right was committed."""
    return bool(session.value(_RECEIPT["settled"], {"attempt": right.attempt, "token": right.token}))


def _row(job: Job, written: Written) -> dict[str, Any]:
    plan, right = job.plan, job.right
    decisions = {"format": plan.format, "publish": plan.publish, "verify": plan.spec.verify}
    return {
        "lock": right.lock,
        "token": right.token,
        "lease_id": right.lease_id,
        "attempt": right.attempt,
        "owner_key": right.owner,
        "source": plan.source,
        "target": str(plan.target_name),
        "row_count": written.held,
        "previous_rows": written.previous,
        "proof": Jsonb(job.verification.proof | decisions),
    }

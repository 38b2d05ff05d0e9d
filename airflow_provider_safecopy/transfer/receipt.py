"""The receipt: the proof of a publish, committed with the data it proves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer import slice as slices
from airflow_provider_safecopy.transfer import watermark
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.watermark import Move
from airflow_provider_safecopy.transfer.written import Written

_RECEIPT = sql.load("receipt")


@dataclass(frozen=True)
class Receipt:
    """What a publish has entered into the ledger. `published_at` is ISO 8601; `watermark` is that of the report."""

    published_at: str
    watermark: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def write(job: Job, written: Written, move: Move | None) -> Receipt:
    """Write it, and the watermark, in the publishing transaction.

    Raises `PlanError`, worth a retry, where the slice has been appended meanwhile.
    """
    row = _row(job, written, move)
    try:
        published_at = str(job.target.value(_RECEIPT["write"], row))
    except psycopg.errors.UniqueViolation as error:
        if error.diag.constraint_name != "receipt_slice":
            raise
        raise slices.already(job.plan.target_name, str(job.plan.spec.slice), "another run did") from error
    watermark.carry_out(job, move, written)
    told = (move.warning,) if move and move.warning else ()
    return Receipt(published_at, _entry(job, move), told)


def is_there(session: Session, job: Job) -> bool:
    """Return whether this publish was committed."""
    return bool(session.value(_RECEIPT["settled"], {"attempt": job.attempt, "token": job.lease.token}))


def _row(job: Job, written: Written, move: Move | None) -> dict[str, Any]:
    plan, lease, ledger = job.plan, job.lease, job.plan.ledger
    contender = lease.contender
    decisions: dict[str, str] = {"format": plan.format, "publish": plan.publish, "verify": plan.spec.verify}
    if ledger is not None:
        decisions["read"] = ledger.told
    if plan.spec.write_mode == "upsert":
        decisions["missing"] = plan.spec.missing
    if contender.task is not None:
        decisions |= {"run": contender.owner_key, "task": contender.task, "member": contender.member}
    entry = _entry(job, move)
    return {
        "lock": lease.name,
        "token": lease.token,
        "lease_id": lease.lease_id,
        "attempt": job.attempt,
        "owner_key": contender.label,
        "source": plan.source,
        "target": str(plan.target_name),
        "row_count": written.held,
        "previous_rows": written.previous,
        "proof": Jsonb(job.verification.proof | decisions | _shape(job)),
        "write_mode": plan.spec.write_mode,
        "slice": ledger.slice if ledger else plan.spec.slice,
        "origin": ledger.origin.digest if ledger else None,
        "inserted": written.inserted,
        "updated": written.updated,
        "deleted": written.deleted,
        "unchanged": written.unchanged,
        "watermark": None if entry is None else Jsonb(entry),
        "follows": ledger.follows if ledger else 0,
        "was_empty": written.was_empty or bool(ledger and ledger.was_empty),
        "schema": plan.target_name.schema,
        "name": plan.target_name.name,
    }


def _shape(job: Job) -> dict[str, Any]:
    shape = job.plan.shape
    return {} if shape is None else {"shape": shape.as_dict(encoding=job.target.server.encoding)}


def _entry(job: Job, move: Move | None) -> dict[str, Any] | None:
    ledger = job.plan.ledger
    return ledger.entry(move.new) if ledger is not None and move is not None else None

"""The receipt: the proof of a publish, committed with the data it proves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer import slice as slices
from airflow_provider_safecopy.transfer import watermark
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.watermark import WatermarkChange
from airflow_provider_safecopy.transfer.written import WrittenRows

_RECEIPT = sql.load("receipt")


@dataclass(frozen=True)
class Receipt:
    """What a publish has entered into the ledger. `published_at` is ISO 8601; `watermark` is that of the report."""

    published_at: str
    watermark: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def write_receipt(job: PublishContext, written: WrittenRows, watermark_change: WatermarkChange | None) -> Receipt:
    """Write it, and the watermark, in the publishing transaction.

    Raises `PlanError`, worth a retry, where the slice has been appended meanwhile.
    """
    row = _build_row(job, written, watermark_change)
    try:
        published_at = str(job.target.fetch_value(_RECEIPT["write"], row))
    except psycopg.errors.UniqueViolation as error:
        if error.diag.constraint_name != "receipt_slice":
            raise
        raise slices.already_appended_error(
            job.plan.target_name, str(job.plan.spec.append_key), "another run did"
        ) from error
    watermark.apply_change(job, watermark_change, written)
    told = (watermark_change.warning,) if watermark_change and watermark_change.warning else ()
    return Receipt(published_at, _build_watermark_entry(job, watermark_change), told)


def is_committed(session: Session, job: PublishContext) -> bool:
    """Return whether this publish was committed."""
    return bool(session.fetch_value(_RECEIPT["settled"], {"attempt": job.attempt, "token": job.lease.token}))


def _build_row(job: PublishContext, written: WrittenRows, watermark_change: WatermarkChange | None) -> dict[str, Any]:
    plan, lease, ledger = job.plan, job.lease, job.plan.history
    contender = lease.contender
    decisions: dict[str, str] = {"format": plan.format, "publish": plan.publish, "verify": plan.spec.verify}
    if ledger is not None:
        decisions["read"] = ledger.source_label
    if plan.spec.write_mode == "upsert":
        decisions["missing"] = plan.spec.missing
    if contender.task is not None:
        decisions |= {"run": contender.owner_key, "task": contender.task, "member": contender.member}
    entry = _build_watermark_entry(job, watermark_change)
    return {
        "lock": lease.name,
        "token": lease.token,
        "lease_id": lease.lease_id,
        "attempt": job.attempt,
        "owner_key": contender.label,
        "source": plan.source,
        "target": str(plan.target_name),
        "row_count": written.current_rows,
        "previous_rows": written.previous_rows,
        "proof": Jsonb(job.verification.proof | decisions | _build_schema_proof(job)),
        "write_mode": plan.spec.write_mode,
        "slice": ledger.append_key if ledger else plan.spec.append_key,
        "origin": ledger.source_identity.digest if ledger else None,
        "inserted": written.inserted,
        "updated": written.updated,
        "deleted": written.deleted,
        "unchanged": written.unchanged,
        "watermark": None if entry is None else Jsonb(entry),
        "follows": ledger.previous_receipt if ledger else 0,
        "was_empty": written.was_empty or bool(ledger and ledger.was_empty),
        "schema": plan.target_name.schema,
        "name": plan.target_name.name,
    }


def _build_schema_proof(job: PublishContext) -> dict[str, Any]:
    shape = job.plan.source_schema
    return {} if shape is None else {"shape": shape.as_dict(encoding=job.target.server.encoding)}


def _build_watermark_entry(job: PublishContext, watermark_change: WatermarkChange | None) -> dict[str, Any] | None:
    ledger = job.plan.history
    return (
        ledger.build_watermark_entry(watermark_change.new)
        if ledger is not None and watermark_change is not None
        else None
    )

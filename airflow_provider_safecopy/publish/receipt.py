"""The receipt of a publish and the watermark, both committed with the rows.

The watermark says how far a target has read a source; it is committed with the rows.

A wrong watermark must cost no more than reading again. So one is used only for the very same source, while the source is
what it was and the target still holds rows; it is moved only to what has arrived, and never over a gap; and it is
forgotten when the source holds nothing at or beyond it any more, or when rows of the target are removed by other copies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.planning import history as slices
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.report import WrittenRows

_RECEIPT = sql.load("receipt")
HINT = (
    "a replace concerns the whole table: copy all parts in one task, give each its own target or partition, or add them by "
    "write_mode append or upsert"
)


def require_no_sibling(target: Session, plan: CopyPlan, contender: Contender) -> None:
    """Raise `PlanError` if a sibling in this run has replaced the rows of the same target."""
    if contender.task is None or plan.spec.write_mode != "replace":
        return
    asked = {
        "target": str(plan.target_name),
        "run": contender.owner_key,
        "task": contender.task,
        "member": contender.member,
    }
    if row := target.fetch_one(_RECEIPT["of_sibling"], asked):
        message = (
            f"{plan.target_name}: {row['member']} of this run has already replaced its rows, at {row['published_at']}; "
            f"{contender.member} would overwrite them"
        )
        raise PlanError((Refusal("parts_overwrite", message, str(plan.target_name), hint=HINT),), retryable=False)


log = logging.getLogger(__name__)

_WATERMARK = sql.load("watermark")


@dataclass(frozen=True)
class WatermarkChange:
    """The change of the watermark in one publish: put at `new`, kept, or forgotten (`new` is None)."""

    old: str | None
    new: str | None
    action: Literal["put", "keep", "forget"]

    @property
    def warning(self) -> str | None:
        """The warning about the watermark for a person; None without one."""
        if self.action != "forget":
            return None
        return (
            f"the source holds nothing at or beyond the watermark {self.old}: its last rows were removed, or it was set "
            "back; the watermark is forgotten, and the next run reads everything"
        )


def decide_change(job: PublishContext) -> WatermarkChange | None:
    """Where the watermark goes once the rows in staging are published; None where there is none to speak of.

    Asked before the publish gives the role its own settings back, which spell values differently.
    """
    ledger = job.plan.history
    if ledger is None or ledger.read_range is None:
        return None
    bounds, old = ledger.read_range, ledger.watermark
    cursor = bounds.cursor
    query = copy_script.read_greatest(job.verification.staging, cursor.target_column, cursor.kind.type, old)
    row = job.target.fetch_one(query) or {}
    if bounds.end is None and row["behind"]:
        return WatermarkChange(old, None, "forget")
    if bounds.follows and row["beyond"]:
        return WatermarkChange(old, row["value"], "put")
    return WatermarkChange(old, old, "keep")


def apply_change(job: PublishContext, change: WatermarkChange | None, written: WrittenRows) -> None:
    """Apply the change, in the publishing transaction.

    A copy that removes rows, or finds the target empty, forgets the watermarks of all origins: otherwise the next copy of
    another origin would find rows in the target and trust its old watermark.
    """
    plan, execute = job.plan, job.connection.execute
    target = {"target": str(plan.target_name)}
    was_empty = written.was_empty or bool(plan.history and plan.history.was_empty)
    removed = plan.spec.write_mode == "upsert" and written.deleted
    if plan.spec.write_mode == "replace" or removed or was_empty:
        execute(_WATERMARK["forget_target"], target)
    if change is None or change.action == "keep" or plan.history is None or plan.history.read_range is None:
        return
    asked = target | {"origin": plan.history.source_identity.digest}
    if change.action == "forget":
        execute(_WATERMARK["forget_origin"], asked)
        return
    cursor = plan.history.read_range.cursor
    row = {
        "source": plan.history.source_label,
        "cursor_column": cursor.column,
        "type": cursor.kind.type,
        "value": change.new,
        "basis": plan.history.basis,
        "schema": plan.target_name.schema,
        "name": plan.target_name.name,
        "stored": plan.history.stored_watermark.value if plan.history.stored_watermark and not was_empty else None,
        "token": job.lease.token,
    }
    if not execute(_WATERMARK["put"], asked | row).rowcount:
        log.warning("%s: its watermark was changed by another session meanwhile; it is left as it is", plan.target_name)


@dataclass(frozen=True)
class Receipt:
    """The entry of a publish in the copy history. `published_at` is ISO 8601; `watermark` is that of the report."""

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
    apply_change(job, watermark_change, written)
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

"""The watermark: how far a target has read an origin, committed with the rows.

A wrong watermark must cost no more than reading again. So one is used only for the very same origin, while the source is
what it was and the target still holds rows; it is moved only to what has arrived, and never over a gap; and it is
forgotten when the source holds nothing at or beyond it any more, or when rows of the target are removed by other copies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer import statements
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.written import WrittenRows

log = logging.getLogger(__name__)

_WATERMARK = sql.load("watermark")


@dataclass(frozen=True)
class WatermarkChange:
    """What becomes of the watermark in one publish: put at `new`, kept, or forgotten (`new` is None)."""

    old: str | None
    new: str | None
    action: Literal["put", "keep", "forget"]

    @property
    def warning(self) -> str | None:
        """What a person had better know."""
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
    query = statements.read_greatest(job.verification.staging, cursor.target_column, cursor.kind.type, old)
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
        log.warning("%s: its watermark was changed by somebody else meanwhile; it is left as it is", plan.target_name)

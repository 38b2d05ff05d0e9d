"""Siblings: instances of one mapped task, of which only one may replace the rows of a target."""

from __future__ import annotations

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session

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

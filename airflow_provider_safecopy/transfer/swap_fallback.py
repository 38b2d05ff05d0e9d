"""Swap patience: replace a swap by another way when readers keep the table too long.

Swap takes ACCESS EXCLUSIVE, which waits even for an idle transaction that once read the table. The rows in staging
are proven; delta and delete_insert write the same rows from there, beside any reader. This holds only for
``publish="auto"``: with ``publish="swap"`` the publish swaps or fails.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.blocker import Blocker, list_blockers
from airflow_provider_safecopy.transfer import choice, drift
from airflow_provider_safecopy.transfer.blockers import Blockers
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.target_table import TargetTable, find_pairing_key

log = logging.getLogger(__name__)

_BLOCKERS = sql.load("blockers")


class LeaveSwapError(Exception):
    """Raised to go on with `job` instead of the swap. Internal: it never leaves the publish."""

    def __init__(self, job: PublishContext) -> None:
        super().__init__(job.plan.publish)
        self.job = job


class SwapPatience:
    """Decides when a waiting swap gives way. Called after each step without a lock."""

    def __init__(self, job: PublishContext) -> None:
        self._job = job
        self._seconds = job.plan.spec.swap_patience
        self._due = self._seconds if can_leave_swap(job) else float("inf")

    def check(self, seconds: float, found: tuple[Blocker, ...] | str) -> None:
        """Raise `LeaveSwapError` if `seconds` of waiting are enough and another way need not wait."""
        if seconds < self._due:
            return
        blockers = found if isinstance(found, str) else list_blockers(found)
        if (job := _replan(self._job, blockers, self._seconds)) is not None:
            raise LeaveSwapError(job)
        self._due = seconds + self._seconds

    def check_blockers(self, blockers: Blockers) -> None:
        """Call `check` for the wait that `blockers` watches."""
        if blockers.seconds >= self._due:
            self.check(blockers.seconds, blockers.read_latest())


def can_leave_swap(job: PublishContext) -> bool:
    """Whether `auto` chose the swap, and another way needs no lock that waits for readers."""
    return job.plan.publish == "swap" and job.plan.spec.publish == "auto" and not drift.adds_columns(job.plan)


def _replan(job: PublishContext, blockers: str, seconds: float) -> PublishContext | None:
    """Return the job with the best way that waits for no reader; None if it would wait as well."""
    plan, relation = job.plan, job.plan.target_relation
    asked = {"target": plan.target_oid, "exclusive": False}
    if relation is None or job.target.fetch_all(_BLOCKERS["holders"], asked):
        return None  # a writer holds the table: any other way would wait for it too
    staging = job.verification.staging
    if job.target.fetch_value(_BLOCKERS["rows_may_change"], {"schema": staging.schema, "name": staging.name}):
        return None  # rows in staging may have changed since they were proven
    table = TargetTable(job.target, relation)
    way = choice.choose_instead_of_swap(plan.spec, table)
    if way is None:
        return None
    why = f"publish {way} instead of swap: it waits for no reader; swap had waited {seconds:g} s for {blockers}"
    log.warning("%s: %s", plan.target_name, why)
    found = find_pairing_key(plan.spec, table, way)
    return replace(job, plan=replace(plan, publish=way, key=found, reasons=(*plan.reasons, why)))

"""Leave swap for a way that waits for no reader, when readers keep the table for too long.

Swap takes ACCESS EXCLUSIVE, which waits even for an idle transaction that has once read the table. The rows that wait in
staging are proven; delta and delete_insert write the same rows from there, beside any reader. Only ``publish="auto"``
leaves: who asks for a swap gets one, or an error.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer import choice, drift
from airflow_provider_safecopy.transfer.blocker import Blocker, list_blockers
from airflow_provider_safecopy.transfer.blockers import Blockers
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.key import paired_by

log = logging.getLogger(__name__)

_BLOCKERS = sql.load("blockers")


class LeaveSwapError(Exception):
    """The publish goes on as `job` says. Internal: it never leaves the publish."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.plan.publish)
        self.job = job


class SwapPatience:
    """Decides when a publish that waits for its swap leaves it. Asked after each step that got no lock."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seconds = job.plan.spec.swap_patience
        self._due = self._seconds if may_leave(job) else float("inf")

    def check(self, seconds: float, found: tuple[Blocker, ...] | str) -> None:
        """Raise `LeaveSwapError` once `seconds` of waiting are enough, and another way would not wait as well."""
        if seconds < self._due:
            return
        told = found if isinstance(found, str) else list_blockers(found)
        if (job := _replan(self._job, told, self._seconds)) is not None:
            raise LeaveSwapError(job)
        self._due = seconds + self._seconds

    def check_blockers(self, blockers: Blockers) -> None:
        """As `check`, of the wait for the lock that `blockers` watches."""
        if blockers.seconds >= self._due:
            self.check(blockers.seconds, blockers.read_latest())


def may_leave(job: Job) -> bool:
    """Whether the swap was chosen and not asked for, and whether another way needs no lock that waits for readers."""
    return job.plan.publish == "swap" and job.plan.spec.publish == "auto" and not drift.adds_columns(job.plan)


def _replan(job: Job, told: str, seconds: float) -> Job | None:
    """Return the job with the best way that waits for no reader; None where there is none, or it would wait as well."""
    plan, relation = job.plan, job.plan.target_relation
    asked = {"target": plan.target_oid, "exclusive": False}
    if relation is None or job.target.all(_BLOCKERS["holders"], asked):
        return None  # a writer has it: any other way waits for that one, too
    staging = job.verification.staging
    if job.target.value(_BLOCKERS["rows_may_change"], {"schema": staging.schema, "name": staging.name}):
        return None  # what is in staging now may not be what was proven
    way = choice.choose_instead_of_swap(plan.spec, job.target, relation)
    if way is None:
        return None
    why = f"publish {way} instead of swap: it waits for no reader; swap had waited {seconds:g} s for {told}"
    log.warning("%s: %s", plan.target_name, why)
    found = paired_by(plan.spec, job.target, relation, way)
    return replace(job, plan=replace(plan, publish=way, key=found, reasons=(*plan.reasons, why)))

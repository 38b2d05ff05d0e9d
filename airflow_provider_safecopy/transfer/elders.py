"""Elders: transactions that were open when rows were loaded, and to whose snapshots these are not there.

Rows loaded frozen are there for every snapshot. Rows loaded by several lanes cannot be frozen, and a table of such
rows that takes another's place would be empty to an elder that reads it only then: so the swap waits for them, as
CREATE INDEX CONCURRENTLY does. Nobody waits for the swap meanwhile.
"""

from __future__ import annotations

import logging
import random
import select
import time
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import StageTimeoutError
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.swap_fallback import SwapPatience

log = logging.getLogger(__name__)

_PAGES = sql.load("pages")
_PAUSE_SECONDS = (0.02, 0.1)
_TOLD_SECONDS = 1.0


def of(job: Job) -> frozenset[str]:
    """The transactions that may hold a snapshot older than the rows in staging; none where all can see those."""
    if job.plan.publish != "swap" or job.plan.freezes:
        return frozenset()
    return frozenset(row["transaction"] for row in _open(job))


def outlive(job: Job, elders: frozenset[str]) -> None:
    """Wait until the last of them has ended, or surely holds no snapshot.

    Raises `StageTimeoutError` when they do
    not in time, and `LeaveSwapError` where the publish had better go on another way.
    """
    began, patience = time.monotonic(), SwapPatience(job)
    tell_at = began + _TOLD_SECONDS
    until = min(job.deadline, began + job.plan.spec.timeouts.lock_wait)
    while elders and (left := [row for row in _open(job) if row["transaction"] in elders and not row["idle"]]):
        job.abort.check()
        job.trying()
        elders = frozenset(row["transaction"] for row in left)
        told = ", ".join(_told(row) for row in left)
        if time.monotonic() > until:
            raise StageTimeoutError(
                f"publish into {job.plan.target_name} waited for transactions older than its rows, and they do not end: "
                f"{told}; nothing was changed",
                stage="publish",
                hint="end them, raise lock_wait_timeout and publish_timeout, or copy with parallel=1",
            )
        if time.monotonic() > tell_at:
            log.warning("publish waits for transactions older than the rows loaded: %s", told)
            tell_at += 10 * _TOLD_SECONDS
        patience.check(time.monotonic() - began, f"transactions older than the rows loaded: {told}")
        select.select([job.abort.fileno()], [], [], random.uniform(*_PAUSE_SECONDS))  # noqa: S311 -- jitter


def _open(job: Job) -> list[dict[str, Any]]:
    return job.target.all(_PAGES["open_transactions"], {"ours": job.right.application_name})


def _told(row: dict[str, Any]) -> str:
    return f"pid {row['pid']} ({', '.join(str(row[key]) for key in ('role', 'application') if row[key])})"

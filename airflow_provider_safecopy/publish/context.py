"""The values that every step of one publish needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.lock.model import Lease, format_application_name
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.lock_retry import STEP_SECONDS
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.transfer.verify import Verification


@dataclass(frozen=True)
class PublishContext:
    """One publish: what is planned and proven, by whom, where, and until when (`deadline`, of time.monotonic).

    `attempt` is the one of the receipt: a batch publishes many tables under one lease.
    `lock_step`: how many seconds this try waits for a lock; see `lock_retry`.
    """

    plan: CopyPlan
    verification: Verification
    lease: Lease
    attempt: UUID
    target: Session
    fence: Callable[[psycopg.Connection[Any]], None]
    abort: AbortSwitch
    trying: Callable[[], None]
    deadline: float
    lock_step: float = STEP_SECONDS

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The target's control session."""
        return self.target.connection

    @property
    def application_name(self) -> str:
        """The name of all sessions of this run."""
        return format_application_name(self.lease.attempt)

    @property
    def seconds_left(self) -> float:
        """Until the publish's own timeout; never less than one."""
        return max(1.0, self.deadline - time.monotonic())

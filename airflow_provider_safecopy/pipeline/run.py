"""A run: one attempt that holds its lock and has its plan. What every step of the line needs."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.lock.living import LivingLock
from airflow_provider_safecopy.lock.model import Lease
from airflow_provider_safecopy.lock.pulse import Heartbeat
from airflow_provider_safecopy.pipeline.attempt import Attempt
from airflow_provider_safecopy.transfer.model import Progress, Stage
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session

# What the lock is told of: bytes move in the first, the others are a server's work.
PHASES: dict[Stage, int] = {"export": 1, "import": 1, "verify": 2, "publish": 3}


@dataclass(frozen=True)
class Run:
    """What every step of one copy needs. The token of `lease`, the run's own, names everything."""

    asked: Attempt
    plan: CopyPlan
    lock: LivingLock
    pulse: Heartbeat
    source: Session
    target: Session
    snapshot: str

    @property
    def abort(self) -> AbortSwitch:
        """What stops the run."""
        return self.asked.abort

    @property
    def lease(self) -> Lease:
        """Of the lock that was asked for; the target table's is held as well."""
        return next(lease for lease in self.lock.leases if lease.name == self.plan.lock)

    def progress(self, at: Progress) -> None:
        """Tell the lock, and whoever asked to be told."""
        self.pulse.advance(PHASES[at.stage], 0)
        self.asked.progress(at)

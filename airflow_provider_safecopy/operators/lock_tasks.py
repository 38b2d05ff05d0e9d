"""The first and the last task of a guarded run: one acquires the lock, the other releases it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID

from airflow.providers.common.compat.sdk import BaseOperator, Context

from airflow_provider_safecopy.hooks.in_process import carry_any_id
from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.presence import Displacement
from airflow_provider_safecopy.operators.busy import WAIT_TIMEOUT, Mode, OnBusy
from airflow_provider_safecopy.operators.contender import contender_of, is_test, judge_of
from airflow_provider_safecopy.operators.told import told, told_to_airflow
from airflow_provider_safecopy.pipeline.reap import clear_away

STALE_AFTER = 3600.0
"""Seconds without progress after which a group's lock may be taken: there may be none between two tasks."""


class AcquireLivingLock(BaseOperator):
    """The first task of a `LivingLockGroup`. Its result tells `ReleaseLivingLock` what is held."""

    template_fields: Sequence[str] = ("target_conn_id", "lock")
    ui_color = "#f4e3b2"

    def __init__(
        self,
        *,
        target_conn_id: str,
        lock: str,
        on_busy: Mode = "fail",
        wait_timeout: float = WAIT_TIMEOUT,
        stale_after: float = STALE_AFTER,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target_conn_id = target_conn_id
        self.lock = lock
        with told_to_airflow():
            self.on_busy = OnBusy(on_busy, wait_timeout)
            self.promise = Promise(stale_after, crash_grace=None)

    def execute(self, context: Context) -> dict[str, Any]:
        """Acquire the lock, for tasks that come after this one has ended."""
        return self.resume(context)

    def resume(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Try, or try again after having waited."""
        carry_any_id()
        deadline = self.on_busy.deadline(event)
        contender = contender_of(context, detached=True)
        answering = self.on_busy.answering(
            self, self.target_conn_id, deadline, lambda error: self.log.warning("skipped: %s", told(error))
        )
        with told_to_airflow(), answering:
            lock = SafeCopyHook(target_conn_id=self.target_conn_id).living_lock(
                self.lock, contender=contender, promise=self.promise, judge=judge_of(context, contender)
            )
            with closing(lock.store):
                (lease,) = lock.acquire().leases
                if is_test(context):
                    lock.release()
                    self.log.info("lock %s: released at once, as no task comes after a test", lease.name)
        return {
            "lock": lease.name,
            "token": lease.token,
            "lease_id": str(lease.lease_id),
            "member": contender.member,
            "try": contender.try_number,
            "attempt": str(contender.attempt),
        }


class ReleaseLivingLock(BaseOperator):
    """The last task of a `LivingLockGroup`: it frees the lock, and fences out what the run may have left behind."""

    template_fields: Sequence[str] = ("target_conn_id", "lock")
    ui_color = "#f4e3b2"

    def __init__(self, *, target_conn_id: str, lock: str, setup_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_conn_id = target_conn_id
        self.lock = lock
        self.setup_task_id = setup_task_id

    def execute(self, context: Context) -> None:
        """Release what the setup task acquired, and whatever of this run is still in the lock."""
        carry_any_id()
        contender = contender_of(context, detached=True)
        held = _lease_of(context["ti"].xcom_pull(task_ids=self.setup_task_id), contender)
        with (
            told_to_airflow(),
            closing(SafeCopyHook(target_conn_id=self.target_conn_id).lock_store(contender.attempt)) as store,
        ):
            freed = held is not None and store.release(held)
            left = None if freed else store.holder(self.lock)
            if left is not None and left.owner_key == contender.owner_key:
                attempts = [seen.attempt for seen in left.members]
                displaced = store.reap(self.lock, dead=attempts, reason="its run has released it")
                if freed := displaced is not None:
                    clear_away(store, displaced, Displacement("released", store.label, self.lock, contender.owner_key))
            self.log.info("lock %s: %s", self.lock, "released" if freed else "was not held by this run any more")


def _lease_of(held: Any, contender: Contender) -> Lease | None:
    """What the setup task's result tells; None where it tells of no lease. It may have been cleared, or changed by hand."""
    match held:
        case {
            "lock": str(name),
            "token": int(token),
            "lease_id": str(lease_id),
            "member": str(member),
            "try": int(number),
            "attempt": str(attempt),
        } if 0 <= token < 1 << 63 and 0 <= number < 1 << 31:
            try:
                mine = replace(contender, member=member, try_number=number, attempt=UUID(attempt))
                return Lease(name, token, UUID(lease_id), mine)
            except ValueError:
                return None
    return None

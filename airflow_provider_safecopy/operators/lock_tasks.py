"""The first and the last task of a guarded run: one acquires the lock, the other releases it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, BaseOperator, Context

from airflow_provider_safecopy.hooks.in_process import patch_non_latin1_ids
from airflow_provider_safecopy.lock.model import Contender, Promise
from airflow_provider_safecopy.operators.busy import WAIT_TIMEOUT, Mode, OnBusy
from airflow_provider_safecopy.operators.contender import (
    build_contender,
    is_test,
    make_liveness_check,
    member_key,
    name_member,
)
from airflow_provider_safecopy.operators.told import format_error, translate_errors

if TYPE_CHECKING:
    from airflow_provider_safecopy.lock.living import LivingLock
    from airflow_provider_safecopy.lock.store import Store

STALE_AFTER = 3600.0
"""Seconds without progress after which a group's lock may be taken: there may be none between two tasks."""


class AcquireLivingLock(BaseOperator):
    """The first task of a `LivingLockGroup`. Its result tells `ReleaseLivingLock` what is held."""

    template_fields: Sequence[str] = ("target_conn_id", "lock")
    ui_color = "#f4e3b2"

    _killed = False

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
        with translate_errors():
            self.on_busy = OnBusy(on_busy, wait_timeout)
            self.promise = Promise(stale_after, crash_grace=None)

    def on_kill(self) -> None:
        """Release what was acquired. Airflow 3 lets `execute` go on after this."""
        self._killed = True

    def execute(self, context: Context) -> dict[str, Any]:
        """Acquire the lock, for tasks that come after this one has ended."""
        return self.resume(context)

    def resume(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Try, or try again after having waited."""
        from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook

        patch_non_latin1_ids()
        deadline = self.on_busy.find_deadline(event)
        contender = build_contender(context, detached=True)
        answering = self.on_busy.handle_busy(
            self, self.target_conn_id, deadline, lambda error: self.log.warning("skipped: %s", format_error(error))
        )
        with translate_errors(), answering:
            lock = SafeCopyHook(target_conn_id=self.target_conn_id).living_lock(
                self.lock, contender=contender, promise=self.promise, judge=make_liveness_check(context, contender)
            )
            with closing(lock.store), _release_on_failure(lock):
                (lease,) = lock.acquire().leases
                if self._killed:  # else this task would succeed under a lock that no task releases
                    raise AirflowException("the task was killed")
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
    """The last task of a `LivingLockGroup`: its group leaves the lock, and what the group left behind is fenced out.

    Other tasks of the run that share the lock keep it: another group, or a copy with the same `lock`. The last of them
    frees it.
    """

    template_fields: Sequence[str] = ("target_conn_id", "lock")
    ui_color = "#f4e3b2"

    def __init__(self, *, target_conn_id: str, lock: str, setup_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_conn_id = target_conn_id
        self.lock = lock
        self.setup_task_id = setup_task_id

    def execute(self, context: Context) -> None:
        """Release what the setup task acquired, and evict members of this group that are still in the lock."""
        from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook

        patch_non_latin1_ids()
        ti, contender = context["ti"], build_contender(context, detached=True)
        acquired = _read_lock_name(ti.xcom_pull(task_ids=self.setup_task_id, map_indexes=ti.map_index))
        with (
            translate_errors(),
            closing(SafeCopyHook(target_conn_id=self.target_conn_id).lock_store(contender.attempt)) as store,
        ):
            self._leave(store, acquired or self.lock, contender, ti)

    def _leave(self, store: Store, name: str, contender: Contender, ti: Any) -> None:
        from airflow_provider_safecopy.pipeline.eviction import evict

        holder = store.read_holder(name)
        members = holder.members if holder is not None and holder.owner_key == contender.owner_key else ()
        own = [seen for seen in members if self._is_own(seen.member, ti)]
        if holder is None or not own:
            self.log.info("lock %s: this group did not hold it any more", name)
            return
        setup = member_key(self.setup_task_id, ti.map_index)
        strays = [seen for seen in own if seen.member != setup]
        if strays:
            self.log.warning("lock %s: evicting %s", name, ", ".join(seen.member for seen in strays))
        freed = evict(store, holder, strays)
        for seen in own:
            if seen.member == setup:  # last: it is the group's hold on the lock
                freed = store.release(holder.build_lease(seen))
        self.log.info("lock %s: %s", name, "released" if freed else "left to other tasks of this run")

    def _is_own(self, member: str, ti: Any) -> bool:
        """Whether a member is a task of this group; in a mapped group, of this one of its instances."""
        # Ask the DAG: with Airflow 2, an instance of a mapped task does not know its group.
        group = self.dag.get_task(self.task_id).task_group
        tasks = {task.task_id for task in group.iter_tasks()} if group is not None else set()
        if name_member(ti) != ti.task_id:
            return member in {member_key(task_id, ti.map_index) for task_id in tasks}
        return member.partition("[")[0] in tasks


@contextmanager
def _release_on_failure(lock: LivingLock) -> Iterator[None]:
    """Release the lock when the block fails: the release task only runs after a setup task that succeeded."""
    try:
        yield
    except BaseException:
        lock.release()
        raise


def _read_lock_name(result: Any) -> str | None:
    """Return the lock's name from the setup task's result; None if that was cleared or changed by hand."""
    match result:
        case {"lock": str(name)} if name.strip() and "\0" not in name:
            return name
    return None

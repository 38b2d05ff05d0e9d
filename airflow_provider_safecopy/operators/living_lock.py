"""One guarded run: a task group whose tasks share a lock, with the tasks that acquire and release it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Self

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    BaseOperator,
    Context,
    TaskGroup,
    get_current_context,
)

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.hooks.compat import patch_non_latin1_ids
from airflow_provider_safecopy.lock.model import Contender, Promise
from airflow_provider_safecopy.operators.common import (
    WAIT_TIMEOUT,
    Mode,
    OnBusy,
    build_contender,
    format_error,
    is_test,
    make_liveness_check,
    member_key,
    name_member,
    translate_errors,
)

if TYPE_CHECKING:
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
    from airflow_provider_safecopy.lock.living_lock import LivingLock
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
                # Else this task would succeed under a lock that no task releases.
                if self._killed:
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
        from airflow_provider_safecopy.pipeline.reap import evict

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
            # Last: it is the group's hold on the lock.
            if seen.member == setup:
                freed = store.release(holder.build_lease(seen))
        self.log.info("lock %s: %s", name, "released" if freed else "left to other tasks of this run")

    def _is_own(self, member: str, ti: Any) -> bool:
        """Return whether a member is a task of this group; in a mapped group, of this one of its instances."""
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


class LivingLockGroup(TaskGroup):
    """A task group under one lock: its first task acquires it, its last one releases it whatever happened.

    A second run of the DAG, or of any other that asks for the same lock, is refused, skipped or waits. Every
    `SafeCopyOperator` inside takes part by itself; any other task may, with `joined`. Retries supersede the try
    before, mapped tasks and nested groups are members of the same run, and a run that lost its lock cannot publish.

    Several groups of one run may share a lock, one after the other, side by side, or as the instances of a mapped group
    around them; so may a `SafeCopyOperator` with the same `lock`. They do not exclude each other. A group leaves the
    lock with its last task, and the last group frees it. Between two groups in sequence another run may get the lock:
    put both into one group to keep it.

    :param group_id: as of any task group.
    :param target_conn_id: the connection, of type ``postgres``, in whose database the lock lives; copies inside must
        go there, too, or bring a lock of their own. (templated)
    :param lock: the lock's name; default: the DAG's id. (templated)
    :param on_busy: when another run holds it: ``fail``, ``skip`` all that is inside, or ``wait`` without a worker.
    :param wait_timeout: seconds to wait at most. Default 1 hour.
    :param stale_after: seconds without progress after which others may take the lock over. It must cover the time
        between two tasks, and any task that does not take part. Default 1 hour.

    Groups under a lock cannot be nested in each other. Other parameters are those of a task group.
    """

    def __init__(
        self,
        group_id: str,
        *,
        target_conn_id: str,
        lock: str | None = None,
        on_busy: Mode = "fail",
        wait_timeout: float = WAIT_TIMEOUT,
        stale_after: float = STALE_AFTER,
        **kwargs: Any,
    ) -> None:
        super().__init__(group_id=group_id, **kwargs)
        if _find_group_around(self.parent_group) is not None:
            with translate_errors():
                raise ConfigError(f"group {self.group_id} is inside another group under a lock", hint="use one lock")
        self.target_conn_id = target_conn_id
        self.lock = lock or self.dag.dag_id
        self.on_busy: Mode = on_busy
        self.wait_timeout = wait_timeout
        self.stale_after = stale_after

    def __enter__(self) -> Self:
        super().__enter__()
        where = {"target_conn_id": self.target_conn_id, "lock": self.lock}
        self.setup = AcquireLivingLock(
            task_id="acquire_lock",
            on_busy=self.on_busy,
            wait_timeout=self.wait_timeout,
            stale_after=self.stale_after,
            **where,
        )
        self.teardown = ReleaseLivingLock(task_id="release_lock", setup_task_id=self.setup.task_id, **where)
        self.teardown.as_teardown(setups=self.setup)
        return self

    def __exit__(self, *error: object) -> None:
        """Everything inside comes after the one, and before the other."""
        inside = {task.task_id: task for task in self.iter_tasks()}
        for own in (self.setup, self.teardown):
            del inside[own.task_id]
        for task in inside.values():
            if not inside.keys() & task.upstream_task_ids:
                self.setup >> task
            if not inside.keys() & task.downstream_task_ids:
                task >> self.teardown
        super().__exit__(*error)  # type: ignore[no-untyped-call] # Airflow's own


@contextmanager
def joined(context: Context | None = None) -> Iterator[LivingLock]:
    """Take part in the lock of the `LivingLockGroup` around the running task::

        @task
        def 집계():
            with joined() as lock:
                for batch in batches:
                    work(batch)
                    lock.heartbeat()

    `heartbeat` says that something was done, and fails the task when the lock is lost; what is written into the
    lock's database is safe besides when its transaction calls ``lock.fence(connection)``. Raises Airflow's exceptions.
    """
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook

    patch_non_latin1_ids()
    context = context or get_current_context()
    with translate_errors():
        if (group := find_group(context["task"])) is None:
            raise ConfigError(f"task {context['ti'].task_id} is in no LivingLockGroup", hint="put it into one")
        name, conn_id = render_group_lock(group, context)
        contender = build_contender(context)
        lock = SafeCopyHook(target_conn_id=conn_id).living_lock(
            name,
            contender=contender,
            promise=Promise(group.stale_after, crash_grace=None),
            judge=make_liveness_check(context, contender),
        )
        with closing(lock.store):
            require_held(lock.store, name, group, contender, context)
            with lock:
                yield lock


def find_lock(task: Any, hook: SafeCopyHook, context: Context, contender: Contender) -> str | None:
    """The lock a copying task holds beside the tables': its own, or that of the group, which must still be held."""
    if task.lock is not None or (group := find_group(task)) is None:
        name: str | None = task.lock
        return name
    held, conn_id = render_group_lock(group, context)
    if conn_id != task.target_conn_id:
        raise ConfigError(
            f"the group's lock {held} lives in {conn_id!r}, and cannot guard a copy into {task.target_conn_id!r}",
            hint="copy into the group's target, or give the task a lock of its own",
        )
    with closing(hook.lock_store(contender.attempt)) as store:
        require_held(store, held, group, contender, context)
    return held


def find_group(task: Any) -> LivingLockGroup | None:
    """The group under a lock that a task is in, at whatever depth."""
    # By way of the DAG: one of several mapped tasks has forgotten its group, with Airflow 2.
    return _find_group_around(task.dag.get_task(task.task_id).task_group) if task.has_dag() else None


def render_group_lock(group: LivingLockGroup, context: Context) -> tuple[str, str]:
    """The group's lock and its connection, rendered for the running task."""
    name, conn_id = context["task"].render_template((group.lock, group.target_conn_id), context)
    return name, conn_id


def require_held(store: Store, name: str, group: LivingLockGroup, contender: Contender, context: Context) -> None:
    """Raise unless the group's first task still holds the lock: what came in between may have been another run.

    ``airflow tasks test`` runs a task without its group: it guards itself by the group's lock.
    """
    if is_test(context):
        return
    holder = store.read_holder(name)
    members = {seen.member for seen in holder.members} if holder else set()
    if holder is None or holder.owner_key != contender.owner_key or _setup_member(group, context) not in members:
        raise AirflowFailException(
            f"lock {name}: this run does not hold it any more; now it is {f'held by {holder}' if holder else 'free'}. "
            f"Nothing was done. Clear the task {group.setup.task_id} to begin the group anew"
        )


def _setup_member(group: LivingLockGroup, context: Context) -> str:
    """Return the member by which a group holds its lock; in a mapped group, that of the running instance."""
    mapped = group.setup.get_closest_mapped_task_group() is not None
    return member_key(group.setup.task_id, context["ti"].map_index if mapped else None)


def _find_group_around(group: TaskGroup | None) -> LivingLockGroup | None:
    while group is not None and not isinstance(group, LivingLockGroup):
        group = group.parent_group
    return group

"""A task as a contender for a lock, its answer to a busy one, and our errors as Airflow's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args
from uuid import uuid4

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
    Context,
)

from airflow_provider_safecopy.errors import LockBusyError, SafeCopyError
from airflow_provider_safecopy.hooks.dag_run_state import (
    build_liveness_check,
    format_start,
    is_cleared,
    name_deployment,
)
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.validation import require_choice, require_seconds

if TYPE_CHECKING:
    from airflow_provider_safecopy.lock.living_lock import LivenessCheck


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate our errors into the exceptions by which Airflow decides about a retry."""
    try:
        yield
    except SafeCopyError as error:
        kind = AirflowException if error.retryable else AirflowFailException
        raise kind(format_error(error)) from error


def format_error(error: SafeCopyError) -> str:
    """The error's name, message and data. What psql said last is in the message already."""
    data = error.as_dict()
    shown = {key: data[key] for key in data if key not in ("type", "message", "hint", "refusals", "stderr_tail")}
    return f"{type(error).__name__}: {error} [{', '.join(f'{key}={value}' for key, value in shown.items())}]"


def build_contender(context: Context, *, detached: bool = False) -> Contender:
    """The contender a task is. All tasks of one DAG run share their locks, and a retry supersedes the try before.

    The run's start date is a part of it: it stays while the run runs, also when single tasks are cleared, and changes
    when a finished run is. ``airflow tasks test`` works on runs that live, with neither a scheduler nor slots: it is
    a run of its own each time, and never joins. `detached` is a member that outlives its process.
    """
    ti, place = context["ti"], None
    started = format_start(context.get("dag_run"))
    owner = {"dag": ti.dag_id, "run": ti.run_id, "deployment": name_deployment(), "started": started}
    key = "|".join((owner["deployment"], ti.dag_id, ti.run_id, started))
    if is_test(context):
        key, owner = f"{key}|test|{uuid4()}", {"mode": "tasks test", "dag": ti.dag_id}
    if not detached:
        place = ProcessIdentity.read_current(may_end=_has_own_process(ti))
    mapped = ti.map_index is not None and ti.map_index >= 0
    task = ti.task_id if mapped else None
    return Contender(key, owner, name_member(ti), ti.try_number, process=place, is_detached=detached, task=task)


def make_liveness_check(context: Context, contender: Contender) -> LivenessCheck:
    """Return the judge of other holders of the contender's locks, by what this Airflow knows."""
    return build_liveness_check(contender.owner, cleared=is_cleared(context.get("dag_run")))


def name_member(ti: Any) -> str:
    """The task, and which of it when it is mapped."""
    return member_key(ti.task_id, ti.map_index)


def member_key(task_id: str, map_index: int | None) -> str:
    """Return the name of a task as a member of a lock; `map_index` is None or negative if it is not mapped."""
    return task_id if map_index is None or map_index < 0 else f"{task_id}[{map_index}]"


def default_append_key(context: Context) -> str:
    """Return the append key of this task by default: the same for every try of a task in one DAG run."""
    ti = context["ti"]
    return f"{ti.dag_id} {ti.run_id} {name_member(ti)}"


def is_test(context: Context) -> bool:
    """Return whether this is ``airflow tasks test``; ``airflow dags test`` makes a run, and is as good as any."""
    # Airflow 2 says so in the context, 3.3 by its environment; those between only where `--env-vars` is given.
    by_context: Mapping[str, Any] = context
    by_environment = os.environ.get("AIRFLOW_TEST_MODE", "").lower() in {"1", "true"}
    return bool(by_context.get("test_mode")) or by_environment or sys.argv[1:3] == ["tasks", "test"]


def _has_own_process(ti: Any) -> bool:
    """Return whether a task's process does nothing else, so that who takes its lock over may end it. Not in ``dag.test()``."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    # Airflow 2.
    if runner is None:
        return getattr(ti, "job_id", None) is not None
    return getattr(getattr(runner, "SUPERVISOR_COMMS", None), "supervisor", None) is None


Mode = Literal["fail", "skip", "wait"]

WAIT_TIMEOUT = 3600.0
"""Seconds a task waits for a busy lock by default."""

# A trigger that no triggerer runs fails its task by Airflow's own clock, so much later than by ours. Seconds.
_LEEWAY = 120.0


@dataclass(frozen=True)
class OnBusy:
    """`mode`, and for ``wait`` how many seconds at most. Raises `ConfigError`."""

    mode: Mode = "fail"
    wait_timeout: float = WAIT_TIMEOUT

    def __post_init__(self) -> None:
        require_choice("on_busy", self.mode, get_args(Mode))
        require_seconds("wait_timeout", self.wait_timeout)

    def find_deadline(self, event: Mapping[str, Any] | None) -> float:
        """Until when to wait, in seconds of the epoch: counted from the first attempt, told on by the trigger's event."""
        latest = time.time() + self.wait_timeout
        told = event.get("deadline") if event else None
        known = isinstance(told, int | float) and not isinstance(told, bool) and told > 0
        return float(min(told, latest)) if known and told is not None else latest

    @contextmanager
    def handle_busy(
        self, operator: BaseOperator, conn_id: str, deadline: float, skipped: Callable[[LockBusyError], None]
    ) -> Iterator[None]:
        """Answer a `LockBusyError` of the block, by when nothing is held any more. `resume` is called after waiting.

        ``fail`` raises it again; `skipped` is told of it before the task skips itself.
        """
        try:
            yield
        except LockBusyError as error:
            if self.mode == "skip":
                skipped(error)
                raise AirflowSkipException(format_error(error)) from error
            if self.mode == "wait":
                self._wait(operator, conn_id, deadline, error)
            raise

    def _wait(self, operator: BaseOperator, conn_id: str, deadline: float, error: LockBusyError) -> None:
        left = deadline - time.time()
        if left <= 0:
            raise AirflowException(
                f"waited {self.wait_timeout:g} s for the lock, in vain: {format_error(error)}"
            ) from error
        operator.log.info("waiting without a worker, for %.0f s at most: %s", left, error)
        from airflow_provider_safecopy.triggers.living_lock import LivingLockTrigger

        operator.defer(
            trigger=LivingLockTrigger(conn_id=conn_id, lock=error.lock, deadline=deadline),
            method_name="resume",
            timeout=timedelta(seconds=left + _LEEWAY),
        )

"""Who wants a lock: a DAG run, by one attempt of one of its tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow.providers.common.compat.sdk import Context

from airflow_provider_safecopy.hooks.judge import build_liveness_check, format_start, is_cleared, name_deployment
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.lock.process import ProcessIdentity

if TYPE_CHECKING:
    from airflow_provider_safecopy.lock.living import LivenessCheck


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
    """What an append of this task is, unless it is told: the same for every try of a task in one DAG run."""
    ti = context["ti"]
    return f"{ti.dag_id} {ti.run_id} {name_member(ti)}"


def is_test(context: Context) -> bool:
    """Whether this is ``airflow tasks test``; ``airflow dags test`` makes a run, and is as good as any."""
    # Airflow 2 says so in the context, 3.3 by its environment; those between only where `--env-vars` is given.
    by_context: Mapping[str, Any] = context
    by_environment = os.environ.get("AIRFLOW_TEST_MODE", "").lower() in {"1", "true"}
    return bool(by_context.get("test_mode")) or by_environment or sys.argv[1:3] == ["tasks", "test"]


def _has_own_process(ti: Any) -> bool:
    """Whether a task's process does nothing else, so that who takes its lock over may end it. Not in ``dag.test()``."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    if runner is None:  # Airflow 2
        return getattr(ti, "job_id", None) is not None
    return getattr(getattr(runner, "SUPERVISOR_COMMS", None), "supervisor", None) is None

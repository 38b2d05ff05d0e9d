"""Knowledge of this Airflow about a lock's holder: whether its DAG run is over.

No store can know it, and no process: a run whose tasks were killed on another machine is over for Airflow long before
its lock is due. Only runs of this very deployment are judged. Whatever cannot be learnt is not known, never guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import conf

if TYPE_CHECKING:
    from airflow_provider_safecopy.lock.living_lock import LivenessCheck
    from airflow_provider_safecopy.lock.model import Holder

log = logging.getLogger(__name__)

_FINISHED = frozenset({"success", "failed"})


@dataclass(frozen=True)
class Run:
    """A DAG run as this Airflow knows it; `started` is None if Airflow does not say."""

    state: str | None
    started: str | None = None


def name_deployment() -> str:
    """Return the name of this Airflow; two that write into one database should not have the same."""
    return _read_configured_name() or conf.get("api", "base_url", fallback="") or "airflow"


def name_warning() -> str | None:
    """Return a warning if this Airflow has only a default name, which another one may share."""
    if _read_configured_name():
        return None
    return (
        f"this Airflow is called {name_deployment()!r} by default, and another Airflow may have the same name: if both copy into one "
        "database, set deployment_id in the section [safecopy] of each"
    )


def build_liveness_check(own: Mapping[str, str], *, cleared: bool | None = None) -> LivenessCheck:
    """The judge of a run whose lock's owner is `own`; none of its own, when it is empty.

    All attempts of a holder are gone when its run is over here, or is an earlier incarnation of our own: a run that
    was finished and then `cleared` has the same id and starts anew, while a zombie of the former may still be at work. Two
    Airflows have runs of the same ids. A run that was never cleared has no earlier incarnation: such a holder belongs to
    another Airflow.
    """
    may_have_former = bool(_read_configured_name()) if cleared is None else cleared

    def judge(holder: Holder) -> Collection[str]:
        over = (may_have_former and _is_former(holder.owner, own)) or is_finished(holder)
        return [seen.attempt for seen in holder.members] if over else []

    return judge


def is_cleared(run: object) -> bool | None:
    """Return whether a DAG run of a task's context was cleared before; None where this Airflow does not say."""
    number = getattr(run, "clear_number", None)
    return number > 0 if isinstance(number, int) else None


def is_finished(holder: Holder) -> bool:
    """Return whether the holder is a DAG run of this Airflow that has ended. False where that is not known. Never raises.

    A run of the same id may belong to another Airflow of the same name: it is the holder's only if it started when the
    holder says. If Airflow does not tell the start, the name must have been configured.
    """
    dag_id, run_id = _find_run(holder.owner)
    if dag_id is None or run_id is None:
        return False
    try:
        run = _read_state(dag_id, run_id)
    except Exception as error:  # noqa: BLE001 -- of Airflow's API or its database: whatever it is, nothing is known
        log.warning("lock %s: Airflow cannot say whether run %s of %s is over: %s", holder.name, run_id, dag_id, error)
        return False
    if run.state not in _FINISHED:
        return False
    if run.started is None:
        return bool(_read_configured_name())
    return run.started == holder.owner.get("started")


def format_start(run: object) -> str:
    """Return when a run started, to the microsecond; a run that no scheduler started may have no such time."""
    started: datetime | None = getattr(run, "start_date", None)
    return started.astimezone(UTC).isoformat(timespec="microseconds") if started else "not started"


def _read_configured_name() -> str:
    name: str = conf.get("safecopy", "deployment_id", fallback="")
    return name


def _find_run(owner: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The DAG and the run, when they are this Airflow's; those of ``airflow tasks test`` belong to no run."""
    if owner.get("deployment") != name_deployment():
        return None, None
    return owner.get("dag"), owner.get("run")


def _is_former(owner: Mapping[str, str], own: Mapping[str, str]) -> bool:
    same = all(own.get(part) and owner.get(part) == own[part] for part in ("deployment", "dag", "run"))
    # Both are UTC in ISO's spelling. A zombie, asking about its successor, learns nothing.
    return same and bool(owner.get("started")) and owner["started"] < own.get("started", "")


def _read_state(dag_id: str, run_id: str) -> Run:
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        return _read_state_from_database(dag_id, run_id)
    return _read_state_by_message(dag_id, run_id) or Run(
        task_runner.RuntimeTaskInstance.get_dagrun_state(dag_id=dag_id, run_id=run_id)
    )


def _read_state_by_message(dag_id: str, run_id: str) -> Run | None:
    """Return the whole run, by a message that only newer Airflows support, and no triggerer; else None."""
    from airflow.sdk.execution_time import comms, task_runner

    asked = getattr(comms, "GetDagRun", None)
    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if asked is None or supervisor is None or type(supervisor).__module__.startswith("airflow.jobs"):
        return None
    run = supervisor.send(asked(dag_id=dag_id, run_id=run_id))
    state = getattr(run, "state", None)
    return None if state is None else Run(str(getattr(state, "value", state)), format_start(run))


def _read_state_from_database(dag_id: str, run_id: str) -> Run:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        run = session.query(DagRun).filter(DagRun.dag_id == dag_id, DagRun.run_id == run_id).one_or_none()
        return Run(None) if run is None else Run(str(run.state), format_start(run))

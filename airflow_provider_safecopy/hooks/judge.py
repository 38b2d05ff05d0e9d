"""What this Airflow knows of a lock's holder: whether its DAG run is over.

No store can know it, and no process: a run whose tasks were killed on another machine is over for Airflow long before
its lock is due. Only runs of this very deployment are judged. Whatever cannot be learnt is not known, never guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from airflow.providers.common.compat.sdk import conf

from airflow_provider_safecopy.lock.living import Judge
from airflow_provider_safecopy.lock.model import Holder

log = logging.getLogger(__name__)

_OVER = frozenset({"success", "failed"})


def deployment() -> str:
    """What this Airflow is called; two that write into one database should not be called alike."""
    return conf.get("safecopy", "deployment_id", fallback="") or conf.get("api", "base_url", fallback="") or "airflow"


def judge_for(own: Mapping[str, str]) -> Judge:
    """The judge of a run whose lock's owner is `own`; none of its own, when it is empty.

    All attempts of a holder are gone when its run is over here, or is an earlier incarnation of our own: a run that
    was finished and cleared has the same id and starts anew, while a zombie of the former may still be at work.
    """

    def judge(holder: Holder) -> Collection[str]:
        over = _is_former(holder.owner, own) or is_over(holder)
        return [seen.attempt for seen in holder.members] if over else []

    return judge


def is_over(holder: Holder) -> bool:
    """Whether the holder is a DAG run of this Airflow that has ended. False where that is not known. Never raises."""
    dag_id, run_id = _run_of(holder.owner)
    if dag_id is None or run_id is None:
        return False
    try:
        state = _state(dag_id, run_id)
    except Exception as error:  # noqa: BLE001 -- of Airflow's API or its database: whatever it is, nothing is known
        log.warning("lock %s: Airflow cannot say whether run %s of %s is over: %s", holder.name, run_id, dag_id, error)
        return False
    return state in _OVER


def _run_of(owner: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The DAG and the run, when they are this Airflow's; those of ``airflow tasks test`` are nobody's."""
    if owner.get("deployment") != deployment():
        return None, None
    return owner.get("dag"), owner.get("run")


def _is_former(owner: Mapping[str, str], own: Mapping[str, str]) -> bool:
    same = all(own.get(part) and owner.get(part) == own[part] for part in ("deployment", "dag", "run"))
    # Both are UTC in ISO's spelling. A zombie, asking about its successor, learns nothing.
    return same and bool(owner.get("started")) and owner["started"] < own.get("started", "")


def _state(dag_id: str, run_id: str) -> str | None:
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2
        return _state_by_database(dag_id, run_id)
    return RuntimeTaskInstance.get_dagrun_state(dag_id=dag_id, run_id=run_id)


def _state_by_database(dag_id: str, run_id: str) -> str | None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        run = session.query(DagRun).filter(DagRun.dag_id == dag_id, DagRun.run_id == run_id).one_or_none()
        return None if run is None else str(run.state)

"""세이프카피_청소: takes locks from dead runs, sweeps what they left, and warns of DAGs that are refused again and again.

It uses the connection `dw` of `sales_copy.py`; any other is a parameter. To see what it would do, and do nothing:

    airflow dags test 세이프카피_청소 --conf '{"dry_run": true}'
"""

from __future__ import annotations

import logging
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_safecopy.hooks.dag_run_state import name_deployment
from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook

try:
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
except ImportError:  # Airflow 2
    from airflow.operators.trigger_dagrun import TriggerDagRunOperator  # type: ignore[import-not-found, no-redef]

log = logging.getLogger("airflow.task")

with DAG(
    "세이프카피_청소",
    schedule="@hourly",
    start_date=pendulum.datetime(2024, 1, 1, tz="Asia/Seoul"),
    catchup=False,
    max_active_runs=1,
    tags=["safecopy"],
    params={
        "target_conn_id": Param("dw", type="string", description="The target whose locks are looked at."),
        "dry_run": Param(False, type="boolean", description="Only tell; change nothing."),
        "overdue": Param(0, type="number", minimum=0, description="Spare stale locks for so many seconds more."),
        "warn_after": Param(3, type="integer", minimum=1, description="Warn when so many were refused in a row."),
        "retrigger": Param(False, type="boolean", description="Trigger the DAGs of dead runs anew."),
    },
    doc_md="""\
    ### 죽은 실행 청소

    한 시간마다 대상 데이터베이스의 잠금을 살펴, 멈추거나 죽은 실행의 잠금을 거두고 남은 스테이징 테이블을 지웁니다.
    같은 잠금 때문에 여러 번 연달아 거절된 작업이 있으면 경고하고, `retrigger`를 켜면 죽은 실행의 DAG를 다시 실행합니다.

    *Each hour: takes the locks of runs that are stuck or dead, drops the staging tables they left, and warns of locks
    whose contenders were refused several times in a row. With `retrigger`, the DAGs of dead runs are triggered anew;
    a DAG whose dead run still counts as running waits for its `max_active_runs`.*
    """,
):

    @task(task_id="거두기")
    def reap(**context: Any) -> list[dict[str, Any]]:
        """Take the locks of dead runs. Gives the runs of this very Airflow to trigger anew, when that is asked for.

        Not those that are over: to retry them or not has been decided already.
        """
        params = context["params"]
        hook = SafeCopyHook(target_conn_id=params["target_conn_id"])
        report = hook.reap(dry_run=params["dry_run"], overdue=params["overdue"])
        done = "would be" if report.dry_run else "was"
        for reaped in report.reaped:
            log.warning("lock %s %s taken from %s: %s", reaped.name, done, reaped.holder, reaped.why)
        for table in report.staging:
            log.info("staging table %s %s dropped", table, done)
        log.info(
            "%d locks, %d staging tables; forgotten: %d", len(report.reaped), len(report.staging), report.forgotten
        )
        dead = [reaped.holder.owner for reaped in report.reaped if reaped.why != "finished"]
        ours = {(o["dag"], o["run"]) for o in dead if o.get("deployment") == name_deployment() and "run" in o}
        again = params["retrigger"] and not report.dry_run
        return [{"trigger_dag_id": dag, "conf": {"in_place_of": run}} for dag, run in sorted(ours)] if again else []

    @task(task_id="경고")
    def warn(**context: Any) -> list[str]:
        """Warn of every lock that keeps others waiting. Gives their names."""
        params, named = context["params"], []
        for holder in SafeCopyHook(target_conn_id=params["target_conn_id"]).locks():
            if holder.refused_count >= params["warn_after"]:
                log.warning(
                    "lock %s: skipped %d times in a row, since %s has held it since %s; last progress %s",
                    holder.name,
                    holder.refused_count,
                    holder,
                    holder.granted_at,
                    holder.progressed_at,
                )
                named.append(holder.name)
        return named

    dead_runs = reap()
    warn().set_upstream(dead_runs)
    TriggerDagRunOperator.partial(task_id="다시_실행").expand_kwargs(dead_runs)

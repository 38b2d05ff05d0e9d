"""Rivals that are Airflow tasks: one Airflow home for all of them, and a DAG of its own for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_safecopy.demo.airflow_home import AirflowHome
from tests.soak.contender import STALE_SECONDS, STALL_SECONDS, Door, Plan
from tests.soak.generations import NAME
from tests.soak.run import Pair, Run

# Whoever waits for the lock looks often.
_DAG = """\
import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator
from airflow_provider_safecopy.triggers import living_lock
living_lock.POLL_SECONDS = (0.3, 0.8)
with DAG({dag_id!r}, schedule=None, start_date=datetime.datetime(2026, 1, 1)):
    SafeCopyOperator(task_id="복사", **{parameters!r})
"""
_WORDS: dict[Door, Sequence[str]] = {"airflow tasks test": ("tasks", "test"), "dag.test()": ("dags", "test")}


@dataclass(frozen=True)
class Airflow:
    """An Airflow with SQLite and no daemon."""

    home: AirflowHome

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Airflow]:
        """With its database made; gone afterwards."""
        with AirflowHome.open() as home:
            with home.migrating() as migration:
                migration.wait()
            yield cls(home)

    def start(self, plan: Plan, pair: Pair, spool: Path, directory: Path) -> Run:
        """The plan as a task of a DAG that is called as its owner."""
        folder = directory / f"dags {plan.owner}"
        folder.mkdir()
        parameters = {
            "source_conn_id": "erp",
            "target_conn_id": "dw",
            "source_table": NAME,
            "target_table": NAME,
            "publish": plan.publish,
            "transfer": plan.transfer,
            "parallel": plan.parallel,
            "on_busy": plan.on_busy,
            "wait_timeout": 25,
            "stall_timeout": STALL_SECONDS,
            "stale_after": STALE_SECONDS,
            "publish_timeout": 20,
            "spool_dir": str(spool),
        }
        (folder / "dag.py").write_text(_DAG.format(dag_id=plan.owner, parameters=parameters), "utf-8")
        home = self.home.connect({"erp": pair["source"].conninfo, "dw": pair["target"].conninfo})
        environment = {**os.environ, **home.environment, "AIRFLOW__CORE__DAGS_FOLDER": str(folder)}
        words = [*_WORDS[plan.door], plan.owner, *(["복사"] if plan.door == "airflow tasks test" else [])]
        return Run.start([sys.executable, "-m", "airflow", *words], environment, directory)

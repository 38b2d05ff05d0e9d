"""``python supervised.py <folder> <dag id>``: ``dag.test()``, but each task in a process of its own.

This process is the task's supervisor, as on a worker of Airflow 3; only the API is in here, too.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag

from airflow_provider_safecopy.hooks.compat import _EncodedPaths


def main(folder: str, dag_id: str) -> None:
    supervisor: Any = importlib.import_module("airflow.sdk.execution_time.supervisor")
    generated: Any = importlib.import_module("airflow.sdk.api.datamodels._generated")
    definitions: Any = importlib.import_module("airflow.sdk.definitions.dag")
    dag = DagBag(folder).dags[dag_id]

    def run(*, ti: Any, task: Any, run_triggerer: bool = False) -> None:
        ti.set_state("queued")
        words = ("id", "task_id", "dag_id", "run_id", "try_number", "map_index", "dag_version_id")
        client = supervisor.InProcessTestSupervisor._api_client(task.dag)
        client._transport.app = _EncodedPaths(client._transport.app)
        supervise = getattr(supervisor, "supervise_task", None) or supervisor.supervise  # its name before 3.3
        supervise(
            ti=generated.TaskInstance(**{word: getattr(ti, word) for word in words}),
            bundle_info=generated.BundleInfo(name="dags-folder", version=None),
            dag_rel_path=Path(dag.fileloc).name,
            token="",
            client=client,
        )

    definitions._run_task = run
    dag.test()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A bare Airflow: a home of its own with SQLite, DAG files written by the tests, and what its database says came of them."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

TASK = "복사"

_HEAD = """\
import datetime
from airflow.providers.common.compat.sdk import DAG, Asset
from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator
with DAG({dag_id!r}, schedule=None, start_date=datetime.datetime(2026, 1, 1), **{dag!r}):
"""


@dataclass(frozen=True)
class Ran:
    """What Airflow's database says of a DAG's last run; the keys are task ids, with ``[n]`` when mapped."""

    states: Mapping[str, str]
    tries: Mapping[str, int]
    results: Mapping[str, Any]

    @property
    def state(self) -> str:
        return self.states[TASK]

    @property
    def result(self) -> Any:
        return self.results[TASK]


@dataclass(frozen=True)
class AirflowHome:
    """Where Airflow lives during the suite, and the commands run in it."""

    path: Path

    @property
    def dags(self) -> Path:
        return self.path / "dags"

    def environment(self) -> dict[str, str]:
        """What makes a process live here."""
        return {
            "AIRFLOW_HOME": str(self.path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "PYTHONUTF8": "1",
        }

    def fill(self, shared: Path) -> None:
        """Put Airflow's database here: a copy of the one in `shared`, which the first worker to come makes for all."""
        migrated = shared / "airflow.db"
        with (shared / "airflow.lock").open("w") as turn:
            flock(turn, LOCK_EX)
            if not migrated.exists():
                code, said = self.run("db", "migrate")
                assert code == 0, said
                shutil.copyfile(self.path / "airflow.db", shared / "migrating")
                (shared / "migrating").rename(migrated)
        shutil.copyfile(migrated, self.path / "airflow.db")

    def start(self, *arguments: str, dags: Path | None = None) -> subprocess.Popen[str]:
        """Start ``airflow`` with `arguments`; standard output and error are one stream."""
        folder = {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)} if dags else {}
        return subprocess.Popen(
            [sys.executable, "-m", "airflow", *arguments],
            env=os.environ | folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, dags: Path | None = None) -> tuple[int, str]:
        """Run ``airflow`` with `arguments` to its end: its exit code, and all it said."""
        with self.start(*arguments, dags=dags) as process:
            said, _ = process.communicate()
        return process.returncode, said

    @contextmanager
    def dag(self, body: str, *, name: str = "시험", **dag: Any) -> Iterator[str]:
        """A DAG file in this home while the block lasts; gives the DAG's id, which begins with `name`."""
        dag_id = f"{name}_{secrets.token_hex(4)}"
        file = self.dags / f"{dag_id.encode().hex()}.py"
        file.write_text(_HEAD.format(dag_id=dag_id, dag=dag) + "".join(f"    {line}\n" for line in body.splitlines()))
        try:
            yield dag_id
        finally:
            file.unlink()

    def ran(self, dag_id: str) -> Ran:
        """What came of the last run of a DAG, not counting those that ``airflow tasks test`` has while it lasts."""
        last = (
            "SELECT run_id FROM dag_run WHERE dag_id = ? AND run_id NOT LIKE '%temporary_run%' ORDER BY id DESC LIMIT 1"
        )
        run = f"run_id = ({last}) AND dag_id = ?"
        tasks = self._ask(
            f"SELECT task_id, map_index, state, try_number FROM task_instance WHERE {run}", dag_id, dag_id
        )
        results = self._ask(
            f"SELECT task_id, map_index, value FROM xcom WHERE key = 'return_value' AND {run}", dag_id, dag_id
        )
        return Ran(
            {_label(task, index): state for task, index, state, _ in tasks},
            {_label(task, index): tries for task, index, _, tries in tasks},
            {_label(task, index): _read(value) for task, index, value in results},
        )

    def asset_events(self) -> list[Any]:
        """The extra of every event of an asset, or of a dataset, as Airflow 2 calls it."""
        tables = "SELECT name FROM sqlite_master WHERE name IN ('asset_event', 'dataset_event')"
        ((table,),) = self._ask(tables)
        return [_read(extra) for (extra,) in self._ask(f"SELECT extra FROM {table} ORDER BY id")]

    def holds(self, text: str) -> bool:
        """Whether any file that Airflow keeps here holds `text`."""
        # Not by opening the database's file ourselves: closing it would drop SQLite's locks in this process.
        command = ["grep", "--recursive", "--quiet", "--text", "--fixed-strings", "--exclude-dir=dags", "-e", text]
        return subprocess.run([*command, str(self.path)], env={"LC_ALL": "C"}, check=False).returncode == 0

    def _ask(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path / "airflow.db")) as connection:
            return connection.execute(query, parameters).fetchall()


def copying(**parameters: Any) -> str:
    """The body of a DAG with one task; its parameters as they would stand in a DAG file."""
    given = {"task_id": TASK, "source_conn_id": "erp", "target_conn_id": "dw"} | parameters
    return f"SafeCopyOperator({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def heard(process: subprocess.Popen[str], pattern: str) -> str:
    """Read what a process says until a line matches; all that it said so far. Fails if it ends before."""
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if re.search(pattern, line):
            return "".join(said)
    raise AssertionError(f"never said {pattern!r}:\n{''.join(said)}")


def _label(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def _read(value: str | bytes) -> Any:
    read: Any = value
    while isinstance(read, str | bytes):  # Airflow 3 keeps JSON in JSON
        read = json.loads(read)
    return read

"""An Airflow of the demo's own, as subprocesses: SQLite, no daemon, no examples, two connections.

This process never imports Airflow. All of it lies in one temporary directory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from psycopg.conninfo import conninfo_to_dict

from airflow_provider_safecopy.demo import child
from airflow_provider_safecopy.errors import ConfigError, SafeCopyError

DAG = "영업_복사"
_INSTALL = "pip install 'airflow-provider-safecopy[airflow,demo]'"
_SETTINGS = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    # Seconds: a demo does not wait five minutes for a demo to fail.
    "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "LC_ALL": "C.UTF-8",
    "PYTHONUTF8": "1",
}


@dataclass(frozen=True)
class AirflowHome:
    """An AIRFLOW_HOME, and what a process needs to use it: `environment`, which may hold passwords."""

    path: Path
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[AirflowHome]:
        """A new one, removed on leaving. Raises `ConfigError` where Airflow is not installed."""
        if importlib.util.find_spec("airflow") is None:
            raise ConfigError("the demo needs Apache Airflow, which is not installed here", hint=_INSTALL)
        path = Path(tempfile.mkdtemp(prefix="safecopy-demo-"))
        try:
            yield cls(path, _environment(path))
        finally:
            shutil.rmtree(path)

    def connect(self, conninfos: Mapping[str, str]) -> AirflowHome:
        """The same home, with connections of type postgres by these names. Kept in the environment alone."""
        connections = {f"AIRFLOW_CONN_{name.upper()}": _connection(text) for name, text in conninfos.items()}
        return AirflowHome(self.path, {**self.environment, **connections})

    @contextmanager
    def migrating(self) -> Iterator[Migration]:
        """Inside, the metadata database is being made."""
        with (self.path / "migration.log").open("w") as log, self._running("db", "migrate", output=log) as process:
            yield Migration(process, Path(log.name))

    @contextmanager
    def testing_dag(self) -> Iterator[DagRun]:
        """Inside, the example DAG runs. Its log is the process's output: a JSON object a line, from Airflow 3.2."""
        machine = AirflowHome(self.path, {**self.environment, "AIRFLOW__LOGGING__JSON_LOGS": "True"})
        with ExitStack() as stack:
            read_end, write_end = os.pipe()
            output = stack.enter_context(open(read_end, encoding="utf-8", errors="replace"))  # noqa: PTH123 -- no path
            lines = stack.enter_context(child.drain(output))
            with open(write_end, "w") as into:  # noqa: PTH123 -- no path
                process = stack.enter_context(machine._running("dags", "test", DAG, output=into))
            yield DagRun(process, lines)

    def run(self, line: str) -> int:
        """Run a shell's command line on our own terminal; its exit code.

        On a terminal Ctrl-C is for the line, not for us. Elsewhere it ends with us, its children too.
        """
        terminal = sys.stdin.isatty()
        with ExitStack() as stack:
            with child.signals_held():
                process = subprocess.Popen(
                    ["/bin/sh", "-c", line.encode()],
                    env={**child.inherited_environment(), **self.environment},
                    process_group=None if terminal else 0,
                )
                stack.enter_context(child.ensure_end(process, group=not terminal))
            stack.enter_context(_interrupts_ignored() if terminal else nullcontext())
            code = process.wait()
        return code if code >= 0 else 128 - code

    def write_environment(self) -> Path:
        """A file for a shell to read (``. file``), for this user's eyes alone: it holds the passwords."""
        path = self.path / "environment"
        path.touch(0o600)
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.environment.items()))
        path.write_text("".join(lines), encoding="utf-8")
        return path

    @contextmanager
    def _running(self, *arguments: str, output: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
        with ExitStack() as stack:
            with child.signals_held():
                process = subprocess.Popen(
                    [sys.executable, "-m", "airflow", *(argument.encode() for argument in arguments)],
                    env={**child.inherited_environment(), **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches it through us, once.
                    process_group=0,
                )
                stack.enter_context(process)
                stack.enter_context(child.ensure_end(process))
            yield process


@dataclass(frozen=True)
class Migration:
    """A running ``airflow db migrate``."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> None:
        """Wait until it has ended well. Raises `SafeCopyError` if it does not."""
        if code := self.process.wait():
            raise failure("airflow db migrate", code, self.log.read_text(errors="replace").splitlines())


@dataclass(frozen=True)
class DagRun:
    """A running ``airflow dags test``: its process, and its lines as they come, with None after the last."""

    process: subprocess.Popen[bytes]
    lines: SimpleQueue[str | None]

    def next_line(self, seconds: float) -> str | None:
        """The next line; None after the last. Raises `queue.Empty` when none has come for `seconds`."""
        return self.lines.get(timeout=seconds)


def failure(what: str, code: int, lines: Sequence[str]) -> SafeCopyError:
    """That Airflow's command failed, with the end of what it said."""
    tail = "\n".join(lines[-30:])
    return SafeCopyError(f"{what} ended with exit code {code}; the end of its output:\n{tail}")


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Inside, Ctrl-C does nothing to us. (Not SIG_IGN: those we start would inherit it.)"""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _environment(path: Path) -> dict[str, str]:
    from airflow_provider_safecopy.demo.servers import installations

    binaries = Path(sys.executable).parent
    newest = {"SAFECOPY_PSQL": str(found[0].psql)} if (found := installations()) else {}
    return {
        "AIRFLOW_HOME": str(path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_dags()),
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        **newest,
        **_SETTINGS,
    }


def _dags() -> Path:
    """The example DAGs: the package's own copy, or those of the repository it is run from."""
    here = Path(__file__).parent
    for folder in (here / "dags", here.parents[1] / "dags"):
        if (folder / "sales_copy.py").is_file():
            return folder
    raise ConfigError("the example DAGs are not where this package is installed", hint=f"install it anew: {_INSTALL}")


def _connection(conninfo: str) -> str:
    told = conninfo_to_dict(conninfo)
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": told["host"],
            "port": int(str(told["port"])),
            "login": told["user"],
            "password": told["password"],
            "schema": told["dbname"],
        }
    )

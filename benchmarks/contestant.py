"""Who is measured: each replaces the target's rows by the source's, in its own way, as processes of its own.

The raw pipes are what people write, done right: the importing psql empties the table and loads it in one transaction,
and stops at the first error. What no pipe can do is to notice that the export died half way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Command, Pipeline


@dataclass(frozen=True)
class Task:
    """Which table to copy between which databases; `quoted` is its name for SQL. `psql` is the real binary."""

    source: str
    target: str
    name: str
    psql: str

    @property
    def quoted(self) -> str:
        return f'public."{self.name}"'


@dataclass(frozen=True)
class Contestant:
    """One way to copy. `said` reads what it printed: figures that only it can know. `lands` is the table it fills."""

    name: str
    pipelines: Callable[[Task], tuple[Pipeline, ...]]
    said: Callable[[str], Mapping[str, float]] = lambda _: {}
    lands: Callable[[Task], str] = lambda task: task.quoted


def safecopy() -> str:
    """The command of this environment."""
    return str(Path(sys.executable).with_name("safecopy"))


def ours(name: str, *options: str) -> Contestant:
    """A whole `safecopy copy` process, with all that makes it safe: lock, staging, counts, digest, receipt."""

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        words = (safecopy(), "copy", "--json", "--source-table", task.quoted, "--target-table", task.quoted, *options)
        env = {"SAFECOPY_SOURCE": task.source, "SAFECOPY_TARGET": task.target, "SAFECOPY_PSQL": task.psql}
        return ((Command(words, env),),)

    return Contestant(name, pipelines, _of_the_report)


def _of_the_report(said: str) -> Mapping[str, float]:
    report = json.loads(said)
    return {
        "own_rss": report["peak_rss_bytes"],
        "temp_bytes": report["spool_bytes"],
        "stream_bytes": report["bytes"],
    }


def raw(name: str, form: str) -> Contestant:
    """`psql | psql`."""

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        into = f"COPY {task.quoted} FROM STDIN (FORMAT {form})"
        return ((_export(task, form), psql(task, task.target, "BEGIN", f"TRUNCATE {task.quoted}", into, "COMMIT")),)

    return Contestant(name, pipelines)


def whole_in_memory() -> Contestant:
    """A Python that holds the whole table between two psql."""

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        script = str(Path(__file__).with_name("communicate.py"))
        return ((Command((sys.executable, script, task.psql, task.source, task.target, task.quoted)),),)

    return Contestant(IN_MEMORY, pipelines, lambda _: {"temp_bytes": 0})


def bare_export(form: str = "binary") -> Contestant:
    """An export to nowhere: how soon a source can be let go."""
    return Contestant(f"export to /dev/null, {form}", lambda task: ((_export(task, form),),), lambda _: {})


def psql(task: Task, conninfo: str, *statements: str) -> Command:
    words = [task.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", conninfo]
    return Command((*words, *(word for statement in statements for word in ("-c", statement))))


def _export(task: Task, form: str) -> Command:
    return psql(task, task.source, f"COPY {task.quoted} TO STDOUT (FORMAT {form})")


CHUNKED, SEQUENTIAL, OURS_TEXT, PARALLEL = "chunked", "sequential", "chunked, text", "parallel 2"
SEQUENTIAL_TWO = "sequential, parallel 2"
RAW_TEXT, RAW_BINARY, IN_MEMORY = "psql | psql, text", "psql | psql, binary", "communicate()"

MAIN: tuple[Contestant, ...] = (
    raw(RAW_TEXT, "text"),
    raw(RAW_BINARY, "binary"),
    ours(CHUNKED, "--transfer", "chunked"),
    ours(SEQUENTIAL, "--transfer", "sequential"),
    ours(SEQUENTIAL_TWO, "--transfer", "sequential", "--parallel", "2"),
    ours(OURS_TEXT, "--transfer", "chunked", "--format", "text"),
    ours(PARALLEL, "--transfer", "chunked", "--parallel", "2"),
    whole_in_memory(),
)
WARM_UP = (RAW_TEXT, CHUNKED)
"""Run once before all rounds, uncounted: then both servers have the table in memory, and all programs are loaded."""

"""One copy of the demo's scenes, in a process of its own: it can be waited for, paused, and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from airflow_provider_safecopy.demo import child
from airflow_provider_safecopy.errors import SafeCopyError

_TASK = re.compile(r"\[DAG TEST\] starting task_id=(\S+)")
_OUR_LOGGERS = re.compile(r"airflow_provider_safecopy\.(pipeline|publish|transfer|planning|lock|postgres)\b")


@dataclass(frozen=True)
class LogLine:
    """One line. `telling` ones are shown as they come; of the others, the last when something failed."""

    text: str
    telling: bool = False


class DagLog:
    """Reads lines, and remembers which task they are of: `dags test` runs one after the other."""

    def __init__(self) -> None:
        self._task = ""

    def read(self, line: str) -> LogLine:
        """Return what a line says. One that is no JSON is taken as it stands (Airflow before 3.2, a task's print)."""
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            return LogLine(line.rstrip("\n"))
        text = str(entry.get("event", ""))
        if match := _TASK.search(text):
            self._task = match[1]
        failed = entry.get("level") in {"error", "critical"}
        telling = failed or _OUR_LOGGERS.match(str(entry.get("logger", ""))) is not None
        return LogLine(f"{self._task}: {text}{_details(entry) if failed else ''}", telling)


def _details(entry: dict[str, Any]) -> str:
    """The exception an entry reports, without the chain and the traceback below it: those are for ``-v``."""
    chain = entry.get("exception")
    if not isinstance(chain, list) or not chain:
        return ""
    return f"\n  {chain[0].get('exc_type')}: {chain[0].get('exc_value')}"


COMMAND = ("-m", "airflow_provider_safecopy.cli", "copy")
"""The command line's copy. Its process does nothing else: a run that takes its lock over may end it."""

# A copy by a user's own program, which may not be ended for its lock.
_PROGRAM = """
import logging, os, sys
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.spec import CopySpec

logging.basicConfig(level=logging.INFO, format="%(message)s")
owner, source_table, target_table, stale_after = sys.argv[1:]
spec = CopySpec.of(source_table=source_table, target_table=target_table, stale_after=float(stale_after))
source, target = (Endpoint.from_conninfo(os.environ[name]) for name in ("SAFECOPY_SOURCE", "SAFECOPY_TARGET"))
try:
    pipeline.copy(spec, source, target, owner=owner)
except SafeCopyError as error:
    print(f"safecopy: {type(error).__name__}: {error.message}", file=sys.stderr)
    sys.exit(exitcode.find_code(error))
"""
PROGRAM = ("-c", _PROGRAM)

_PATIENCE_SECONDS = 60.0
# Of what a copy says: what becomes of its lock and of the table, and why it failed, which goes on in indented lines.
_TELLING = re.compile(r"lock |verify done|publish done|safecopy: ")
_FAILING = "safecopy: "


class Screen(Protocol):
    """The display for a person."""

    def say(self, text: str) -> None: ...
    def detail(self, text: str) -> None: ...


@dataclass
class Run:
    """A running copy. What it `said` so far is read only while it is waited for."""

    name: str
    process: subprocess.Popen[bytes]
    lines: SimpleQueue[str | None]
    screen: Screen
    said: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def start(
        cls, name: str, arguments: Sequence[str], environment: Mapping[str, str], screen: Screen
    ) -> Iterator[Run]:
        """Python at work on `arguments`. On leaving it has ended, and so it has should we end in any way."""
        with ExitStack() as stack:
            read_end, write_end = os.pipe()
            output = stack.enter_context(open(read_end, encoding="utf-8", errors="replace"))  # noqa: PTH123 -- no path
            lines = stack.enter_context(child.drain(output))
            with open(write_end, "wb") as into, child.signals_held():  # noqa: PTH123 -- no path
                process = subprocess.Popen(
                    [sys.executable, *(argument.encode() for argument in arguments)],
                    env={**child.inherited_environment(), **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=into,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches it through us, once.
                    process_group=0,
                )
                stack.enter_context(process)
                stack.enter_context(child.guard(process))
                stack.enter_context(child.ensure_end(process))
            yield cls(name, process, lines, screen)

    def wait_for(self, words: str) -> None:
        """Until it has said this. Raises `SafeCopyError` when it ends before, or does not say it within a minute."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (line := self._next_line(deadline)) is not None:
            if words in line:
                return
        raise self._failure(f"ended with exit code {self.process.wait()}, and never said {words!r}")

    def ends(self) -> int:
        """Its exit code, once it has ended by itself. Raises `SafeCopyError` when it does not within a minute."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._next_line(deadline) is not None:
            pass
        code = self.process.wait()
        self.screen.say(f"{self.name}: exit code {code}")
        return code

    def pause(self) -> None:
        """As a suspended machine does, or `kill -STOP`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """After `pause`: it goes on, and does not know how long it was away."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As the kernel does when memory is short, or `kill -9`."""
        self.process.kill()
        self.process.wait()

    def _next_line(self, deadline: float) -> str | None:
        try:
            line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            raise self._failure(f"has said nothing new for {_PATIENCE_SECONDS:g} s") from None
        if line is not None:
            line = line.rstrip("\n")
            self.said.append(line)
            (self.screen.say if self._is_shown(line) else self.screen.detail)(f"{self.name}: {line}")
        return line

    def _is_shown(self, line: str) -> bool:
        failed = any(earlier.startswith(_FAILING) for earlier in self.said)
        return _TELLING.match(line) is not None or (failed and line.startswith("  "))

    def _failure(self, what: str) -> SafeCopyError:
        tail = "\n".join(self.said[-20:])
        return SafeCopyError(f"the {self.name} {what}; the end of its output:\n{tail}")

"""A copy in a process of its own, a proxy before each server: it, or a psql of its, is met at any step of the line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from tests.support.database import Database
from tests.support.proxy import Proxy
from tests.support.until import until

Side = Literal["source", "target"]
Victim = Literal["supervisor", "our process", "export psql", "import psql"]
Do = Callable[[], object]
"""What is done at a step, in the proxy's thread. False: the step was none to do it at, and the next one is met."""

SIDES: tuple[Side, ...] = ("source", "target")
_SECONDS = 120.0
_SEEN = {signal.SIGKILL: {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}, signal.SIGSTOP: {psutil.STATUS_STOPPED}}
"""What a process has become once it has taken a signal that none can refuse."""
_PUBLISHING = """
SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass('safecopy.receipt') AND mode = 'RowExclusiveLock'
                                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


@dataclass(frozen=True)
class Ended:
    """How the command ended: its exit code, what it said, and how many seconds after it was met, if it was."""

    code: int
    out: str
    err: str
    seconds: float | None

    @property
    def met(self) -> bool:
        return self.seconds is not None

    @property
    def report(self) -> Any:
        """The one object on stdout; whatever stands beside it fails."""
        return json.loads(self.out)


class Run:
    """One copy between two proxies. `at` says what is done and when, then `start`, then `ended`.

    `met` is set once it was done. Whoever stops a process lets it go on again before `ended`. `supervised`: what is
    started is the supervisor of our process, as with Airflow.
    """

    def __init__(self, source: Database, target: Database, *, supervised: bool = False) -> None:
        self._servers: dict[Side, Database] = {"source": source, "target": target}
        self.wires = {side: Proxy.before("127.0.0.1", there.server.port) for side, there in self._servers.items()}
        self.met = threading.Event()
        self._supervised = supervised
        self._started = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._when: float | None = None
        self._trouble: BaseException | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "it was never started"
        return self._process

    def at(self, side: Side, number: int, do: Do) -> None:
        """Have something done when clients come to this step of a side, or to the first after it at which it can be."""
        wire = self.wires[side]

        def come() -> None:
            self._started.wait(_SECONDS)
            self._when = time.monotonic()  # before: who is killed by it has ended before it returns
            try:
                done = do() is not False
            except BaseException as error:  # noqa: BLE001 -- the proxy must live on; it is raised by `ended`
                self._trouble, done = error, True
            if done:
                self.met.set()
            else:
                self._when = None
                wire._step = (wire.steps + 1, come)

        wire.at_step(number, come)

    def at_commit(self, do: Do) -> None:
        """Have something done when the publish has asked for its COMMIT, before the target hears of it."""
        self.at("target", 1, lambda: do() if self.commits() else False)

    def after_commit(self, do: Do) -> None:
        """Have something done at the first step after the publish's COMMIT was answered."""
        sent: list[bool] = []

        def come() -> object:
            if sent:
                return do()
            if self.commits():
                sent.append(True)
            return False

        self.at("target", 1, come)

    def through(self, side: Side) -> Database:
        """A server, as it is reached through its proxy."""
        return self._servers[side].through(self.wires[side].port)

    def start(self, command: Sequence[str], **variables: str) -> None:
        """Start what copies, with more variables in its environment."""
        self._process = subprocess.Popen(
            command,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.set()

    def ended(self, *, met: float | None = None) -> Ended:
        """Wait for the end. `met`: when it was met, where that was not at a step."""
        out, err = self.process.communicate(timeout=_SECONDS)
        if self._trouble is not None:
            raise self._trouble
        when = met or self._when
        return Ended(self.process.returncode, out, err, None if when is None else time.monotonic() - when)

    def alive(self) -> dict[Victim, psutil.Process]:
        """The supervisor if there is one, our process if there is one yet, and its psqls by what they do."""
        started = psutil.Process(self.process.pid)
        found: dict[Victim, psutil.Process] = {"supervisor" if self._supervised else "our process": started}
        if self._supervised and (children := started.children()):
            found["our process"] = children[0]
        for child in found["our process"].children() if "our process" in found else ():
            if (victim := _victim(child)) is not None:
                found[victim] = child
        return found

    def send(self, victim: Victim, number: signal.Signals) -> bool:
        """Send a signal, and see who is killed dead and who is stopped stopped. False if there is no such process."""
        process = self.alive().get(victim)
        if process is None:
            return False
        process.send_signal(number)
        if number in _SEEN:
            until(lambda: _has_become(process, _SEEN[number]))
        return True

    def lose_commit(self) -> None:
        """Within `do`: what is asked at this step never arrives, and its connection is reset."""
        wire = self.wires["target"]
        assert wire._asking is not None
        wire._drop(wire._asking)

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            with self._process:
                self._process.kill()
        for wire in self.wires.values():
            wire.close()

    def commits(self) -> bool:
        """Within `do`: whether it is the publish's COMMIT that the target is asked for at this step."""
        asking = self.wires["target"]._asking
        return (
            asking is not None
            and asking.said.endswith(b"COMMIT\0")
            and bool(self._servers["target"].value(_PUBLISHING))
        )


@contextmanager
def between(source: Database, target: Database, *, supervised: bool = False) -> Iterator[Run]:
    """A run that can be met between its servers; gone afterwards."""
    run = Run(source, target, supervised=supervised)
    try:
        yield run
    finally:
        run.close()


def _has_become(process: psutil.Process, states: set[str]) -> bool:
    try:
        return process.status() in states
    except psutil.NoSuchProcess:
        return True


def _victim(child: psutil.Process) -> Victim | None:
    """Which psql it is; None of a process that is none, not yet, or no more."""
    try:
        words = [] if child.status() == psutil.STATUS_ZOMBIE else child.cmdline()
    except psutil.NoSuchProcess:
        return None
    if not words or Path(words[0]).name != "psql":
        return None
    if words[-2:] == ["-f", "-"]:
        return "export psql"
    return "import psql" if any(word.startswith("COPY ") for word in words) else None

"""What it costs to run some processes: time, processor, memory.

`wall` is from before the first is started until the last has ended. `client_cpu` is the user and system time of these
processes and of all they started and waited for; `machine_cpu` what the whole machine worked meanwhile, servers
included. `memory` is the resident memory of the process tree every 50 ms; pages that several processes share are
counted in each, so that it is rather too much than too little.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_INTERVAL = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Command:
    """One process: its words, and what its environment has beside the common one."""

    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


Pipeline = tuple[Command, ...]
"""Processes of which each reads what the one before it writes."""


@dataclass(frozen=True)
class Measured:
    """Seconds, bytes; `memory` as (seconds since the beginning, bytes); `said` is the last process's stdout."""

    wall: float
    client_cpu: float
    machine_cpu: float
    peak_rss: int
    memory: tuple[tuple[float, int], ...]
    said: str


class FailedError(Exception):
    """A process ended with another exit code than 0; the message has its last words."""


def measure(pipelines: Sequence[Pipeline], env: Mapping[str, str], *, within: float = 3600) -> Measured:
    """Run one pipeline after the other. Raises `FailedError`, also when it was killed because it took longer than this."""
    sampler = Sampler()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        stage = _Stage(env, sampler, said, complaints)
        client, machine, began = _client_cpu(), _machine_cpu(), time.perf_counter()
        with sampler:
            for pipeline in pipelines:
                stage.run(pipeline, began + within - time.perf_counter())
        wall = time.perf_counter() - began
        cpu = _client_cpu() - client, _machine_cpu() - machine
        words = _read(said)
    return Measured(wall, *cpu, max((each for _, each in sampler.seen), default=0), tuple(sampler.seen), words)


@dataclass(frozen=True)
class _Stage:
    """What all pipelines of a run have in common."""

    env: Mapping[str, str]
    sampler: Sampler
    said: IO[bytes]
    complaints: IO[bytes]

    def run(self, pipeline: Pipeline, within: float) -> None:
        processes: list[subprocess.Popen[bytes]] = []
        # Not `wait(timeout)`, which looks only every now and then and would tell 50 ms too much.
        alarm = threading.Timer(within, _kill, (processes,))
        alarm.start()
        try:
            for number, command in enumerate(pipeline, 1):
                processes.append(self._started(command, processes, last=number == len(pipeline)))
            codes = [process.wait() for process in processes]
        finally:
            alarm.cancel()
            _kill(processes)
            for process in processes:
                process.wait()
        if any(codes):
            words = (_read(self.complaints) + _read(self.said)).strip()
            raise FailedError(f"{Path(pipeline[0].words[0]).name}: exit codes {codes}: {words[-2000:]}")

    def _started(
        self, command: Command, earlier: Sequence[subprocess.Popen[bytes]], *, last: bool
    ) -> subprocess.Popen[bytes]:
        taken = earlier[-1].stdout if earlier else None
        process = subprocess.Popen(
            command.words,
            env={**self.env, **command.env},
            stdin=taken or subprocess.DEVNULL,
            stdout=self.said if last else subprocess.PIPE,
            stderr=self.complaints,
        )
        if taken:
            taken.close()
        self.sampler.roots.append(process.pid)
        return process


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


class Sampler:
    """Adds up the resident memory of `roots` and of all their descendants, while the context lasts."""

    def __init__(self) -> None:
        self.roots: list[int] = []
        self.seen: list[tuple[float, int]] = []
        self._parents: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="sampler", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        began = time.perf_counter()
        while not self._over.wait(_INTERVAL):
            resident = sum(map(_resident, self._tree()))
            if resident:
                self.seen.append((time.perf_counter() - began, resident))

    def _tree(self) -> set[int]:
        alive = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 -- names will do, twenty times a second
        # Only new processes are asked whose they are: what is measured shall not be disturbed.
        earlier = self._parents
        self._parents = {pid: earlier.get(pid) or _parent(pid) for pid in alive}
        # A process between fork and exec shows its parent's memory as its own: none is counted when first seen.
        aged = {pid: parent for pid, parent in self._parents.items() if pid in earlier}
        tree, found = set[int](), set(self.roots) & alive
        while found:
            tree |= found
            found = {pid for pid, parent in aged.items() if parent in found} - tree
        return tree


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    return 0


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    return 0


def _client_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _machine_cpu() -> float:
    """All that all processors did but wait: user, nice, system, interrupts."""
    with Path("/proc/stat").open() as file:
        ticks = [int(each) for each in file.readline().split()[1:]]
    return sum(ticks[:3] + ticks[5:7]) / _TICK

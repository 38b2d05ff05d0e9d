"""Who keeps the field full: starts racers, stops and kills them from outside, wakes the stopped, replaces the dead."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.race.contender import Racer
from tests.race.course import Course
from tests.race.observer import observe
from tests.race.publish import Way
from tests.race.report import Report

STOP_SECONDS = (0.02, 0.5)
_TICK_SECONDS = 0.005
_STOPS_EACH_SECOND, _KILLS_EACH_SECOND = 8.0, 1.5
_PR_SET_PDEATHSIG = 1


class Marshal:
    """Runs a race of so many processes. They are forked, so this process must have no thread and no session open."""

    def __init__(self, course: Course, processes: int, way: Way, directory: Path) -> None:
        self.course = course
        self.way = way
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self._dice = random.Random(f"{course.seed}/marshal")
        self._wake_at: dict[int, float | None] = {}  # by process; None while it runs
        self._number = 0
        self._processes = processes
        self._observer: int | None = self._fork("observer", lambda report: observe(course, report))

    def race(self, goes_on: Callable[[], bool]) -> None:
        """Until `goes_on` says otherwise; then all racers are killed, wherever they are."""
        try:
            while goes_on():
                self._tick()
        finally:
            for pid in self._wake_at:
                os.kill(pid, signal.SIGKILL)
            for pid in self._wake_at:
                os.waitpid(pid, 0)
            self._wake_at.clear()

    def close(self) -> bool:
        """Send the observer home. Whether it had looked on to the end."""
        if self._observer is None:
            return False
        os.kill(self._observer, signal.SIGTERM)
        _, status = os.waitpid(self._observer, 0)
        self._observer = None
        return status == 0

    def _tick(self) -> None:
        while len(self._wake_at) < self._processes:
            self._number += 1
            self._wake_at[self._fork(f"racer {self._number}", self._start)] = None
        for pid in list(self._wake_at):
            self._look_after(pid)
        for number, rate in ((signal.SIGSTOP, _STOPS_EACH_SECOND), (signal.SIGKILL, _KILLS_EACH_SECOND)):
            if self._wake_at and self._dice.random() < rate * _TICK_SECONDS:
                os.kill(self._dice.choice(list(self._wake_at)), number)
                self.counts[f"{number.name} from outside"] += 1
        time.sleep(_TICK_SECONDS)

    def _look_after(self, pid: int) -> None:
        """See what became of a process. It is our child, and nobody else has its pid until we have waited for it."""
        changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if changed and os.WIFSTOPPED(status):
            self._wake_at[pid] = time.monotonic() + self._dice.uniform(*STOP_SECONDS)
            self.counts["stops"] += 1
        elif changed:
            del self._wake_at[pid]
            ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "an exit of its own"
            self.counts[f"ended by {ended}"] += 1
        elif (due := self._wake_at[pid]) is not None and time.monotonic() > due:
            self._wake_at[pid] = None
            os.kill(pid, signal.SIGCONT)

    def _start(self, report: Report) -> None:
        Racer(self.course, self._number, self.way, report).run()

    def _fork(self, name: str, work: Callable[[Report], None]) -> int:
        parent = os.getpid()
        if pid := os.fork():
            return pid
        code = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                work(Report(self.directory / name))
                code = 0
        except BaseException:  # noqa: BLE001 -- nothing of the parent's may run in here
            traceback.print_exc(file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)

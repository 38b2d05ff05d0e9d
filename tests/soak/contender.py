"""One rival: a command or an Airflow task that wants the same table, and what befalls it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.errors import PlanError
from tests.soak import ledger
from tests.soak.generations import TABLE
from tests.soak.ground import draw_lanes
from tests.soak.run import Run

Door = Literal["command", "airflow tasks test", "dag.test()"]
OnBusy = Literal["fail", "skip", "wait"]

STALE_SECONDS, STALL_SECONDS = 5, 2
# Of a run's life, in seconds: when something befalls it, and for how long it is stopped. Airflow takes its time to start.
_MOMENTS: dict[Door, tuple[float, float]] = {
    "command": (0.4, 4.0),
    "airflow tasks test": (3.0, 14.0),
    "dag.test()": (3.0, 14.0),
}
_HOLDING_CHANCE, _HELD_SECONDS = 0.7, 0.8
_STOPS = (0.2, 1.0, 3.0, STALE_SECONDS + 2.5)


@dataclass(frozen=True)
class Fate:
    """What befalls a rival: a signal so many seconds after its start, or after it got the lock; SIGSTOP for a while."""

    number: signal.Signals
    after: float
    lasts: float = 0.0
    holding: bool = False

    def __str__(self) -> str:
        told = f"{self.number.name} {self.after:.1f} s after {'it got the lock' if self.holding else 'its start'}"
        return f"{told} for {self.lasts:g} s" if self.lasts else told


@dataclass(frozen=True)
class Plan:
    """What a rival is, drawn beforehand."""

    owner: str
    door: Door
    publish: str
    transfer: str
    parallel: int
    on_busy: OnBusy
    rate: str
    fate: Fate | None

    @classmethod
    def drawn(cls, owner: str, door: Door, dice: random.Random) -> Plan:
        publish = dice.choice(("swap", "delta", "delete_insert"))
        return cls(
            owner,
            door,
            publish,
            dice.choice(("chunked", "sequential")),
            draw_lanes(publish, dice, (1, 1, 2)),
            dice.choices(("fail", "skip", "wait"), (2, 1, 5))[0],
            dice.choice(("100MB", "200KB", "50KB")),
            _fate(door, dice),
        )

    def words(self, spool: str) -> list[str]:
        """On the command line."""
        return [
            *("--source-table", TABLE, "--target-table", TABLE, "--owner", self.owner, "--publish", self.publish),
            *("--transfer", self.transfer, "--parallel", str(self.parallel), "--rate-limit", self.rate),
            *("--on-busy", self.on_busy, "--wait-timeout", "25s", "--spool-dir", spool, "--connect-timeout", "10"),
            *("--stall-timeout", str(STALL_SECONDS), "--stale-after", str(STALE_SECONDS), "--publish-timeout", "20"),
        ]

    def __str__(self) -> str:
        how = f"{self.publish}, {self.transfer}, parallel {self.parallel}, rate {self.rate}, {self.on_busy}"
        return f"{self.owner} by {self.door}: {how}; {self.fate or 'nothing befalls it'}"


def _fate(door: Door, dice: random.Random) -> Fate | None:
    number = dice.choices((None, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP), (4, 3, 1, 3))[0]
    after, lasts = dice.uniform(*_MOMENTS[door]), dice.choice(_STOPS)
    if holding := dice.random() < _HOLDING_CHANCE:
        after = dice.uniform(0.0, _HELD_SECONDS)
    return None if number is None else Fate(number, after, lasts if number == signal.SIGSTOP else 0.0, holding)


class Contender:
    """A rival at work."""

    def __init__(self, plan: Plan, start: Callable[[Plan], Run]) -> None:
        self.plan = plan
        self.run = start(plan)
        self._began = time.monotonic()
        self._befallen = False
        self._held_at: float | None = None
        self._wakes_at: float | None = None

    def goes_on(self, holder: str | None) -> bool:
        """Look after it, `holder` being whose the lock is. Whether it has not ended yet."""
        if self.run.process.poll() is not None:
            return False
        now, fate = time.monotonic(), self.plan.fate
        if self._wakes_at is not None and now > self._wakes_at:
            self._wakes_at = None
            self.run.process.send_signal(signal.SIGCONT)
        if self._held_at is None and holder == self.plan.owner:
            self._held_at = now
        since = self._held_at if fate is not None and fate.holding else self._began
        if fate is not None and not self._befallen and since is not None and now > since + fate.after:
            self._befallen = True
            self.run.process.send_signal(fate.number)
            self._wakes_at = now + fate.lasts if fate.lasts else None
        return True

    @property
    def befallen(self) -> bool:
        """Whether its fate has reached it in time."""
        return self._befallen

    def outcome(self, published: list[tuple[int, str]]) -> str:
        """What came of it, in a word."""
        code = self.run.process.returncode
        if published:
            return "published"
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        if self.plan.door != "command":
            return f"did not publish, exit code {code}"
        return "skipped" if code == 0 else f"exit code {code}"

    def violations(self, published: list[tuple[int, str]]) -> list[str]:
        """Where what it said is not true, or how it ended is not in order."""
        code = self.run.process.returncode
        if self.plan.door != "command":
            # `airflow tasks test` of Airflow 3 ends with 0 whatever became of its task.
            success = self.plan.door == "dag.test()" and code == 0
            wrong = success and self.plan.on_busy == "fail" and not published
            return [f"{self.plan}: Airflow says success, and there is no receipt"] if wrong else []
        told: Any = self.run.told
        found = [f"{self.plan}: {each}" for each in self.run.faults()]
        if code == exitcode.ERROR_CODES[PlanError]:
            found.append(f"{self.plan}: refused, so it was no rival: {self.run.said}")
        if not found and (untrue := ledger.untrue(self.plan.owner, code, told, published)):
            found.append(untrue)
        return found

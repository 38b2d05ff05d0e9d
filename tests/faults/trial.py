"""A trial: one copy of a few customers, one fault in it, and the judgement by the one invariant."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.faults.invariant import Held, Invariant, said
from tests.support import customers
from tests.support.database import Database
from tests.support.proxy import Proxy

ROWS = 300
GRACE = 40.0
"""Seconds that may pass between the timeout that a fault runs into, and the error."""
QUICK = Timeouts(connect=2, export=4, import_=4, stall=1, verify=2, publish=2)
"""Timeouts for faults that say nothing."""
ALL = os.environ.get("FAULT_STEPS") == "all"
"""Whether a fault is tried at every step of a copy, for an hour, and not at a few."""


def sampled(total: int, count: int, *, turn: int) -> list[int]:
    """So many steps of a copy of `total`, spread over all of it; another `turn`, other ones."""
    if ALL:
        return list(range(1, total + 1))
    width = total / count
    return [1 + int(width * part + turn * 7 % width) for part in range(count)]


def empty(database: Database) -> None:
    """The customers' table made anew, without a row."""
    database.execute(f'DROP SCHEMA IF EXISTS "영업" CASCADE; {customers.SHAPE}')


@dataclass
class Strike:
    """A fault that is made once, and when."""

    fault: Callable[[], object]
    at: float | None = None

    def __call__(self) -> None:
        self.at = time.monotonic()
        self.fault()


@dataclass(frozen=True)
class Trial:
    """Where it takes place: the source holds `ROWS` customers, the target two old ones."""

    source: Database
    target: Database
    spool: Path = field(repr=False)

    @classmethod
    def prepared(cls, source: Database, target: Database, spool: Path) -> Trial:
        """Fill two empty databases."""
        source.execute(customers.SHAPE)
        customers.fill(source, ROWS)
        return cls(source, target, spool).towards(target, spool)

    def towards(self, target: Database, spool: Path) -> Trial:
        """The same source, and another empty database to copy to."""
        target.execute(customers.SHAPE)
        target.execute(customers.OLD)
        spool.mkdir()
        return replace(self, target=target, spool=spool)

    def copy(
        self,
        source: Endpoint | None = None,
        target: Endpoint | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> CopyReport:
        """A copy, to `source` and `target` by the way that is given: a proxy, another role."""
        spec = customers.spec(spool_dir=str(self.spool), **options)
        return pipeline.copy(spec, source or self.source.endpoint, target or self.target.endpoint, progress=progress)

    def reset(self) -> None:
        """As before the first copy: the old rows, and no schema of ours."""
        self.target.execute(f"DELETE FROM {customers.TABLE}; {customers.OLD}")
        self.target.execute("DROP SCHEMA IF EXISTS safecopy CASCADE")

    def afresh(self) -> None:
        """Both tables as they were first, whatever has become of them, and no schema of ours."""
        empty(self.source)
        customers.fill(self.source, ROWS)
        empty(self.target)
        self.target.execute(f"{customers.OLD}; DROP SCHEMA IF EXISTS safecopy CASCADE")

    def side(self, name: str) -> Database:
        """The source or the target."""
        return {"source": self.source, "target": self.target}[name]

    def through(self, wire: Proxy, side: str) -> dict[str, Any]:
        """One side by way of a proxy: for `copy`."""
        return {side: self.side(side).through(wire.port).endpoint}

    def judged(
        self,
        run: Callable[[], CopyReport],
        *,
        strike: Strike | None = None,
        within: float | None = None,
        heal: Callable[[], object] = lambda: None,
        again: Callable[[], CopyReport] | None = None,
    ) -> tuple[Held, CopyReport | SafeCopyError]:
        """Run, end the fault, and judge: what the target holds, and what was said.

        `within` is how many seconds after the strike the run may have to end; `again` is the next run.
        """
        invariant = Invariant.before(self.source, self.target, ("영업", "고객"), self.spool)
        began = time.monotonic()
        end = ended(run)
        took = time.monotonic() - ((strike.at if strike else None) or began)
        heal()
        held = invariant.hold(said(end))
        assert within is None or took < within, f"{took:.1f} s until {end}"
        invariant.recovered(again or self.copy)
        return held, end


def ended(run: Callable[[], CopyReport]) -> CopyReport | SafeCopyError:
    """How a run ended. What is no error of ours is none of the trial's either: it fails the test as it is."""
    try:
        return run()
    except SafeCopyError as error:
        return error


def steps_of(wire: Proxy, trial: Trial, side: str, **options: Any) -> int:
    """How many steps a copy of `trial` has on this side."""
    before = wire.steps
    assert trial.copy(**trial.through(wire, side), **options).rows == ROWS
    trial.reset()
    return wire.steps - before


def each_step(
    trial: Trial, wire: Proxy, side: str, do: Callable[[], object], *, steps: Sequence[int], **options: Any
) -> Iterator[tuple[int, Strike, Callable[[], CopyReport]]]:
    """For each of the steps: its number, the fault that is made there, and the run that meets it."""
    for step in steps:
        trial.reset()
        strike = Strike(do)

        def run(step: int = step, strike: Strike = strike) -> CopyReport:
            wire.at_step(wire.steps + step, strike)
            return trial.copy(**trial.through(wire, side), **options)

        try:
            yield step, strike, run
        finally:
            wire.cut()
            wire.mend()

"""A line that can be copied along again and again, by the command: its steps are counted, and a run is met at any of them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from airflow_provider_safecopy.lock.liveness import PresenceNote
from airflow_provider_safecopy.report import CopyReport
from tests.faults.conftest import TABLE, Ground
from tests.faults.invariant import Held, Invariant, said
from tests.faults.run import SIDES, Ended, Run, Side, Victim, between
from tests.support.database import Database, Servers
from tests.support.until import until

NAME = ("영업", "주문_내역")
ROWS = 300
STALL = 1.0
"""Seconds. In all runs here; the stages' own timeouts are as by default."""
LATEST = STALL + 40
"""Seconds from a fault to a clear error, or to the end."""
LINES = {"swap": "sequential", "delta": "chunked"}
"""How each is published here, and how it is transferred."""
_COMMAND = (sys.executable, "-m", "airflow_provider_safecopy.cli", "copy", "--json")
_TABLE = "영업.주문_내역"
_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^safecopy:' AND datname = %s"
_COLUMNS = '("번호" bigint PRIMARY KEY, "품목" text, "금액" numeric)'


@dataclass(frozen=True)
class Step:
    """A step that clients came to in a clean run, and who of ours was alive then. Counted from 1 on either side."""

    side: Side
    number: int
    alive: frozenset[Victim]
    commit: bool
    """Whether it is the publish's COMMIT."""

    def __str__(self) -> str:
        return f"step {self.number} at the {self.side}"


@dataclass(frozen=True)
class Line:
    """A copy that can be run again and again into one target, and the steps of a clean run."""

    ground: Ground
    publish: str
    words: tuple[str, ...]
    steps: tuple[Step, ...]

    def copy(self) -> CopyReport:
        """The next run: in this process, and through no proxy."""
        return self.ground.copy(publish=self.publish, transfer=LINES[self.publish])

    def before(self) -> Invariant:
        """What must hold of the next run, which finds the old rows."""
        return Invariant.before(self.ground.source, self.ground.target, NAME, self.ground.spool)

    def is_after_commit(self, step: Step) -> bool:
        """Whether this step was met after the publish's COMMIT, in the clean run."""
        (commit,) = (at for at, each in enumerate(self.steps) if each.commit)
        return self.steps.index(step) > commit


def new_source(servers: Servers) -> Database:
    """A few orders. No fault changes them."""
    source = servers.create(16, "UTF8", None)
    source.execute(f'CREATE SCHEMA "영업"; CREATE TABLE {TABLE} {_COLUMNS}')
    source.execute(f"INSERT INTO {TABLE} SELECT g, '품목 ' || md5(g::text), g FROM generate_series(1, {ROWS}) g")
    return source


def new_target(servers: Servers) -> Database:
    """With a neighbour, and something that hangs on the table."""
    target = servers.create(18, "UTF8", None)
    target.execute(
        f'CREATE SCHEMA "영업"; CREATE TABLE {TABLE} {_COLUMNS};'
        f'CREATE INDEX "금액순" ON {TABLE} ("금액"); COMMENT ON TABLE {TABLE} IS \'주문\';'
        'CREATE TABLE "영업"."이웃" AS SELECT 1 AS 번호; CREATE VIEW "영업"."이웃들" AS TABLE "영업"."이웃"'
    )
    return target


def line_of(publish: str, ground: Ground) -> Line:
    """Copied once, so that there is a schema of ours, and its steps then counted."""
    words = ("--publish", publish, "--transfer", LINES[publish], "--stall-timeout", f"{STALL}s")
    ground.copy(publish=publish)
    ground.put_old_rows_back()
    return Line(ground, publish, words, steps_of(ground, words))


def start(run: Run, ground: Ground, words: Sequence[str]) -> None:
    """Start the command `safecopy copy`, with more words than are needed."""
    endpoints = {f"SAFECOPY_{side.upper()}": run.through(side).conninfo for side in SIDES}
    tables = ("--source-table", _TABLE, "--target-table", _TABLE, "--spool-dir", str(ground.spool))
    run.start([*_COMMAND, *tables, *words], **endpoints)


def steps_of(ground: Ground, words: Sequence[str]) -> tuple[Step, ...]:
    """The steps of a clean run of the command on both sides, in their order."""
    found: list[Step] = []

    def listen(run: Run, side: Side) -> bool:
        commit = side == "target" and run.commits()
        found.append(Step(side, run.wires[side].steps, frozenset(run.alive()), commit))
        return False

    with between(ground.source, ground.target) as run:
        for side in SIDES:
            run.at(side, 1, lambda side=side: listen(run, side))  # type: ignore[misc]
        start(run, ground, words)
        ended = run.ended()
        assert ended.code == 0, ended.err
    return tuple(found)


def met(line: Line, meet: Callable[[Run], object], during: Callable[[Run], object] = lambda _: None) -> Ended:
    """One run that is met: its end. `during` is done here once it was met."""
    with between(line.ground.source, line.ground.target) as run:
        meet(run)
        start(run, line.ground, line.words)
        during(run)
        return run.ended()


def held(line: Line, invariant: Invariant, ended: Ended) -> Held:
    """What the target holds. What was said of it must be true, clear, and in time."""
    if ended.code < 0:
        # What it had asked for last may still be done by the server, until that has noticed.
        until(lambda: not line.ground.target.rows(_SESSIONS, [line.ground.target.name]))
    found = invariant.hold(said(ended.code))
    if ended.code >= 0:
        assert ended.report["status"] == ("error" if ended.code else "published"), ended.err
        assert ended.code == 0 or "next  " in ended.err, ended.err
    assert ended.seconds is None or ended.seconds < LATEST
    return found


def struck(
    line: Line, meet: Callable[[Run], object], during: Callable[[Run], object] = lambda _: None, *, whole: bool = True
) -> Ended:
    """One run that finds old rows and is met. All that must hold of it and of the next run is demanded.

    `whole`: its connections were left to it, so that it must have cleaned up after itself, unless it was killed.
    """
    line.ground.put_old_rows_back()
    invariant = line.before()
    ended = met(line, meet, during)
    held(line, invariant, ended)
    if ended.code >= 0 and whole:
        invariant.remains.check(line.ground.source, line.ground.target, spool=line.ground.spool)
    invariant.recovered(line.copy)
    return ended


def at(step: Step, victim: Victim, number: signal.Signals) -> Callable[[Run], object]:
    """Meets a run at a step by a signal."""
    return lambda run: run.at(step.side, step.number, lambda: run.send(victim, number))


def make_overdue(line: Line) -> None:
    """As if `stale_after` had passed: by the lock's own clock, and by what its holder has noted on this machine."""
    attempts = "SELECT m.value ->> 'id' FROM safecopy.lock, jsonb_each(members) AS m"
    for (attempt,) in line.ground.target.rows(attempts):
        if (note := PresenceNote.read(attempt)) is not None:
            replace(note, due=0.0).write()
    line.ground.target.execute("UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 second'")

"""The first half of the soak: one run, one fault, at one moment, all drawn by seed and number; and its judgement."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.errors import PublishUnknownError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.publish import transaction
from tests.faults.invariant import Held, Invariant, Said, said
from tests.soak import ground
from tests.soak.faults import FAULTS, Fault
from tests.soak.ground import SIDES, Hosts, Side, draw_lanes
from tests.soak.run import PATIENT, Pair, Run
from tests.soak.scene import Scene
from tests.soak.tally import Outcome
from tests.support.database import Database

NAME = ("영업", "주문 내역")
TABLE = '"영업"."주문 내역"'
ROWS = 4_000
PUBLISHES = ("swap", "delta", "delete_insert", "append")

_SHAPE = f"""
CREATE SCHEMA "영업";
CREATE TABLE {TABLE} ("번호" bigint PRIMARY KEY, "품목" text NOT NULL, "금액" numeric(12,2) CHECK ("금액" > 0));
CREATE INDEX "주문.금액" ON {TABLE} ("금액");
COMMENT ON TABLE {TABLE} IS '날마다';
CREATE TABLE "영업"."이웃" AS SELECT 1 AS "번호"
"""
_NEW = f"INSERT INTO {TABLE} SELECT g, '품목 ' || md5(g::text), g FROM generate_series(1, {ROWS}) g"
_OLD = f"DELETE FROM {TABLE}; INSERT INTO {TABLE} SELECT -g, '옛 품목 ' || g, g FROM generate_series(1, 500) g"
_AT_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE starts_with(application_name, 'safecopy:') AND datname = current_database() AND state <> 'idle'
"""
_HOLDS = f"""
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE starts_with(a.application_name, 'safecopy:') AND l.granted AND l.relation = '{TABLE}'::regclass
  AND l.mode <> 'AccessShareLock'
"""

# Seconds. An error has so long to come: the longest of them, and ten.
_TIMEOUTS = {"connect": 5, "stall": 3, "export": 12, "import": 12, "verify": 8, "publish": 8}
_MORE_SECONDS = 10.0
_HANG_SECONDS = 150.0
_GONE_SECONDS = 25.0
_DELIVERED_SECONDS = 2.0
_PAUSES = (0.3, 1.0, 4.5)


@dataclass(frozen=True)
class Manner:
    """How a run copies."""

    publish: str
    transfer: str
    parallel: int
    verify: str

    def __str__(self) -> str:
        return f"{self.publish}, {self.transfer}, parallel {self.parallel}, verify {self.verify}"

    def words(self, slice_: str, spool: Path) -> list[str]:
        """On the command line. `slice_` is what is appended, where that is the manner."""
        way = (
            ["--publish", self.publish]
            if self.publish != "append"
            else ["--write-mode", "append", "--append-key", slice_]
        )
        timeouts = [word for name, value in _TIMEOUTS.items() for word in (f"--{name}-timeout", str(value))]
        how = ["--transfer", self.transfer, "--parallel", str(self.parallel), "--verify", self.verify]
        return [*("--source-table", TABLE, "--target-table", TABLE), *way, *how, *timeouts, "--spool-dir", str(spool)]


@dataclass(frozen=True)
class Draw:
    """What an attempt of one number is, for one seed: the same each time."""

    seed: int
    number: int
    fault: Fault
    manner: Manner
    side: Side
    share: float
    """How far along the steps of a clean run the fault strikes, from 0 to 1."""
    pause: float
    dice: random.Random = field(repr=False, compare=False)

    @classmethod
    def of(cls, seed: int, number: int, among: Sequence[Fault] = FAULTS) -> Draw:
        """All faults have their turn, in another order each time round."""
        turn, place = divmod(number - 1, len(among))
        fault = random.Random(f"{seed}/turn {turn}").sample(among, len(among))[place]
        dice = random.Random(f"{seed}/{number}")
        publish = dice.choice(PUBLISHES)
        manner = Manner(
            publish,
            fault.transfer or dice.choice(("chunked", "sequential")),
            draw_lanes(publish, dice, (1, 2)),
            fault.verify or dice.choice(("counts", "full")),
        )
        side = dice.choice(SIDES) if fault.side is None else fault.side
        # More often near the end, where it publishes.
        share = dice.choice((dice.random(), dice.random(), dice.uniform(0.8, 1.0)))
        return cls(seed, number, fault, manner, side, share, dice.choice(_PAUSES), dice)


class Course:
    """The databases on which one attempt after the other is made."""

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        self.hosts = hosts
        self.spool, self.files = directory / "spool", directory / "files"
        self.spool.mkdir()
        self.files.mkdir()
        self._steps: dict[Manner, dict[Side, int]] = {}
        self._pair: dict[Side, Database] | None = None

    @property
    def pair(self) -> Pair:
        if self._pair is None:
            self._pair = self.hosts.pair("주문")
            for database in self._pair.values():
                database.execute(_SHAPE)
            with self._pair["target"].connect() as session:
                schema.init(session)  # or the first run would have more steps than those after it
            self._pair["source"].execute(_NEW)
            self._pair["source"].execute(f"ANALYZE {TABLE}")
        return self._pair

    def close(self) -> None:
        """Others next time: whatever went wrong in these says nothing of what comes."""
        if self._pair is not None:
            ground.drop(self._pair)
        self._pair = None

    def put_old_rows_back(self) -> None:
        self.pair["target"].execute(_OLD)

    def steps(self, manner: Manner) -> dict[Side, int]:
        """How many steps a clean run has on either side."""
        if manner not in self._steps:
            self.put_old_rows_back()
            with self.scene(random.Random(0), "target", 0.0) as scene:
                words = manner.words(f"재기 {len(self._steps)}", self.spool)
                if code := _ended(Run.copy(scene.through, [*words, *PATIENT], self.files)):
                    raise RuntimeError(f"a run without any fault ended with exit code {code}: {manner}")
                self._steps[manner] = {side: wire.steps for side, wire in scene.wires.items()}
        return self._steps[manner]

    def scene(self, dice: random.Random, side: Side, pause: float) -> Scene:
        return Scene(self.pair, self.hosts.by_side, side, self.spool, self.files, dice, pause)


@dataclass
class Attempt:
    """One attempt, from the old rows to a clean target. `spoil` is called before it is judged, to see the judge bite."""

    course: Course
    draw: Draw
    spoil: Callable[[Database], object] = lambda _: None
    code: int | None = None
    held: Held | None = None
    ended_at: float = 0.0
    to_clean: float | None = None
    violations: list[str] = field(default_factory=list)

    def make(self) -> Outcome:
        """Make and judge it."""
        draw, course = self.draw, self.course
        steps = course.steps(draw.manner)[draw.side]
        step = 1 + min(int(draw.share * steps), steps - 1)
        course.put_old_rows_back()
        with course.scene(draw.dice, draw.side, draw.pause) as scene:
            invariant = _invariant(course, draw)
            words = draw.manner.words(f"{draw.seed}/{draw.number}", course.spool)
            self._break(scene, [*words, *draw.fault.words(scene)], step)
            self._judge(scene, invariant, lambda: _ended(Run.copy(scene.through, [*words, *PATIENT], course.files)))
        moment = f"step {step} of {steps}, {draw.side}" if draw.fault.strike else "from the start"
        outcome = Outcome(
            f"#{draw.number}",
            draw.fault.name,
            f"{draw.manner}; {moment}" + (f", pause {draw.pause:g} s" if draw.fault.passes else ""),
            struck=scene.struck_at is not None,
            code=self.code,
            held=self.held,
            to_error=self._to_error(scene),
            to_clean=self.to_clean,
            violations=tuple(self.violations),
        )
        if self.violations:
            course.close()
        return outcome

    def _break(self, scene: Scene, words: list[str], step: int) -> None:
        if strike := self.draw.fault.strike:
            scene.at_step(step, strike)
        else:
            scene.struck()
        run = Run.copy(scene.through, words, self.course.files)
        scene.begin(run)
        try:
            self.code = run.process.wait(_HANG_SECONDS)
        except subprocess.TimeoutExpired:
            self.violations.append(f"it did not end within {_HANG_SECONDS:g} s")
            run.kill()
        self.ended_at = time.monotonic()
        scene.heal()
        self.violations += [f"the fault itself went wrong: {each}" for each in scene.trouble]
        if self.code is not None:
            self.violations += run.faults()

    def _judge(self, scene: Scene, invariant: Invariant, again: Callable[[], int]) -> None:
        self.violations += _ended_at_servers(scene)
        self.spoil(self.course.pair["target"])
        if self.code is not None:
            self._demand(lambda: setattr(self, "held", invariant.hold(_said(self.code))))
        began = time.monotonic()
        if self._demand(lambda: invariant.recovered(again)) and scene.struck_at is not None:
            self.to_clean = max(0.0, self.ended_at - scene.struck_at) + time.monotonic() - began

    def _demand(self, what: Callable[[], object]) -> bool:
        try:
            what()
        except (AssertionError, pytest.fail.Exception) as error:
            self.violations.append(str(error) or repr(error))
            return False
        return True

    def _to_error(self, scene: Scene) -> float | None:
        """From the fault to an error of ours; too long a time is a violation."""
        if scene.struck_at is None or self.code is None or self.code <= 0:
            return None
        took = max(0.0, self.ended_at - scene.struck_at)
        limit = max(_TIMEOUTS.values()) + _MORE_SECONDS
        if self.code == exitcode.ERROR_CODES[PublishUnknownError]:
            limit += transaction._SETTLE_SECONDS + _TIMEOUTS["connect"]  # so long it asks for the receipt
        if took > limit:
            self.violations.append(f"the error came {took:.1f} s after the fault, and not within {limit:g} s")
        return took


def _said(code: int | None) -> Said:
    assert code is not None
    return said(code)


def _invariant(course: Course, draw: Draw) -> Invariant:
    """What is new is what the source holds, or all of both where that is appended."""
    invariant = Invariant.before(course.pair["source"], course.pair["target"], NAME, course.spool)
    if draw.manner.publish == "append":
        return replace(invariant, new=tuple(sorted((*invariant.was.rows, *invariant.new))))
    return invariant


def _ended(run: Run) -> int:
    try:
        return run.process.wait(_HANG_SECONDS)
    except subprocess.TimeoutExpired:
        run.kill()
        raise AssertionError(f"a run without a fault did not end within {_HANG_SECONDS:g} s") from None


def _ended_at_servers(scene: Scene) -> Iterator[str]:
    """Wait until the servers have done with what the dead had begun, as they would by themselves; what they have not.

    What keeps others from the target must end however its client was lost. The rest ends when TCP notices, which the
    proxy keeps it from: then it is cut off.
    """
    if not _none(scene.pair["target"], _HOLDS, _GONE_SECONDS):
        yield f"after {_GONE_SECONDS:g} s a session of a run that has ended keeps others from the target"
    for database in scene.pair.values():
        _none(database, _AT_WORK, _DELIVERED_SECONDS)
    scene.cut_off()
    if not all(_none(database, _AT_WORK, _GONE_SECONDS) for database in scene.pair.values()):
        yield f"after {_GONE_SECONDS:g} s a session whose connection is gone is still at work"


def _none(database: Database, count: str, seconds: float) -> bool:
    """Wait until there is none any more."""
    deadline = time.monotonic() + seconds
    while found := database.value(count):
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return not found

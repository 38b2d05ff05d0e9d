"""The servers' own clocks go wrong: hours apart, forward, back, to and fro; the target's decides about locks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.errors import (
    FencedOutError,
    LockBusyError,
    LockLostError,
    LockStoreError,
    StageError,
    StageTimeoutError,
)
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.faults.invariant import Invariant, said
from tests.faults.trial import GRACE, Trial, ended
from tests.support.customers import TABLE, spec
from tests.support.database import Database
from tests.support.server_clock import ServerClock
from tests.support.until import until

HOURS = 7
AWAY = timedelta(hours=HOURS)
NAME = "영업.고객"
SLOW = f"SELECT t.* FROM (SELECT pg_sleep(%s) OFFSET 0) s, {TABLE} t"


@dataclass(frozen=True)
class Clocked:
    """A trial on servers whose clocks can be moved."""

    trial: Trial
    clocks: dict[str, ServerClock]

    @property
    def target(self) -> ServerClock:
        return self.clocks["target"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocked]:
    """Two servers of this file's own."""
    major = {each.major: each for each in installations()}
    with Server.start(major[16], durable=False) as source, Server.start(major[18], durable=False) as target:
        clocks = {"source": ServerClock.of(source), "target": ServerClock.of(target)}
        for server in (source, target):
            server.execute("postgres", 'CREATE DATABASE "영업부"')
        spool = tmp_path_factory.mktemp("clock") / "spool"
        yield Clocked(Trial.prepared(Database(source, "영업부"), Database(target, "영업부"), spool), clocks)


@pytest.fixture
def clocked(prepared: Clocked) -> Iterator[Clocked]:
    """The old rows in the target, no schema of ours, and clocks that are right, before and after."""
    prepared.trial.reset()
    yield prepared
    for clock in prepared.clocks.values():
        clock.move(0)


def before(trial: Trial) -> Invariant:
    return Invariant.before(trial.source, trial.target, ("영업", "고객"), trial.spool)


def elsewhere(owner: str) -> Contender:
    """On another machine: nobody here can tell whether it lives."""
    return replace(Contender.alone(owner), process=None)


def rival(trial: Trial) -> CopyReport:
    """Another machine's copy of the same, by a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        there = trial.source.endpoint, trial.target.endpoint
        return pool.submit(pipeline.copy, spec(), *there, contender=elsewhere("경쟁자")).result(100)


def last_kind(trial: Trial) -> str:
    return str(trial.target.value("SELECT last_kind FROM safecopy.lock WHERE name = %s", [NAME]))


def at(stage: str, do: Callable[[], object]) -> Callable[[Progress], None]:
    """Do it once, when a copy comes to this stage, in the copy's own thread."""
    done: list[bool] = []

    def tell(progress: Progress) -> None:
        if progress.stage == stage and not done:
            done.append(True)
            do()

    return tell


def amid_copies(trial: Trial, clock: ServerClock, hours: float) -> None:
    """Move a clock once both servers are at work."""
    working = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^COPY' AND state = 'active'"
    until(lambda: all(database.value(working) == 1 for database in (trial.source, trial.target)))
    clock.move(hours)


def demand_true_times(report: CopyReport, began: datetime, apart: timedelta) -> None:
    """No span is negative or of hours; the moment of the publish is the target's own."""
    passed = (datetime.now(UTC) - began).total_seconds()
    assert 0 < report.seconds <= passed + 1
    assert all(0 <= stage.seconds <= passed for stage in report.stages), report.stages
    published = datetime.fromisoformat(str(report.published_at))
    assert began + apart <= published <= datetime.now(UTC) + apart


# Apart


@pytest.mark.parametrize("hours", [-HOURS, HOURS], ids=["behind", "ahead"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_whose_clock_is_apart_changes_nothing(clocked: Clocked, side: str, hours: int) -> None:
    trial, invariant = clocked.trial, before(clocked.trial)
    with clocked.clocks[side].moved(hours):
        began = datetime.now(UTC)
        report = trial.copy()
        demand_true_times(report, began, timedelta(hours=hours if side == "target" else 0))
        assert invariant.hold(said(report)) == "new"
        invariant.recovered(trial.copy)


# Forward


def test_a_copy_that_moves_keeps_its_lock_when_the_targets_clock_jumps_forward(clocked: Clocked) -> None:
    """Its next heartbeat tells of progress, which counts from the new time."""
    trial, invariant = clocked.trial, before(clocked.trial)
    report = trial.copy(
        source_table=None,
        source_sql=SLOW % 1.5,
        stale_after=2,
        transfer="chunked",
        # Beyond its promise, and not beyond a stage's timeout: see below.
        progress=at("export", lambda: amid_copies(trial, clocked.target, 1)),
    )
    assert invariant.hold(said(report)) == "new"
    assert last_kind(trial) == "grant"
    invariant.recovered(trial.copy)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_stage_is_ended_by_its_servers_own_timeout_when_the_clock_jumps_beyond_it(
    clocked: Clocked, side: str
) -> None:
    """The second net, two minutes behind ours, is cast at once."""
    trial, invariant = clocked.trial, before(clocked.trial)
    jump = at("export", lambda: amid_copies(trial, clocked.clocks[side], HOURS))
    slow: dict[str, Any] = {"source_table": None, "source_sql": SLOW % 2.6, "transfer": "chunked", "format": "text"}
    end = ended(lambda: trial.copy(**slow, progress=jump))
    assert isinstance(end, StageError), end
    assert (end.sqlstate, end.retryable) == ("57014", True)
    assert invariant.hold(said(end)) == "old"
    invariant.recovered(trial.copy)


def test_a_copy_in_which_nothing_moves_says_that_it_lost_its_lock_when_the_clock_jumps_forward(
    clocked: Clocked,
) -> None:
    """By the server's clock it has stood still for hours, and anybody might have taken its lock."""
    trial, invariant = clocked.trial, before(clocked.trial)

    abort = AbortSwitch()

    def stand() -> None:
        """All there was to tell has been told when the clock jumps; and nothing more is done until it is noticed."""
        beats(trial, 2)
        clocked.target.move(HOURS)
        until(lambda: abort.is_thrown)

    ways = trial.source.endpoint, trial.target.endpoint
    end = ended(lambda: pipeline.copy(spec(stale_after=2), *ways, abort=abort, progress=at("verify", stand)))
    assert isinstance(end, LockLostError), end
    assert "clock" in end.message
    assert invariant.hold(said(end)) == "old"
    invariant.recovered(trial.copy)


def beats(trial: Trial, count: int) -> None:
    """Wait for so many heartbeats."""
    alive = "SELECT alive_at FROM safecopy.lock WHERE name = %s"
    seen = set()

    def beaten() -> bool:
        seen.add(trial.target.value(alive, [NAME]))
        return len(seen) > count

    until(beaten)


def test_a_rival_may_take_the_lock_when_the_targets_clock_jumps_forward_and_the_first_is_fenced_out(
    clocked: Clocked,
) -> None:
    trial, invariant = clocked.trial, before(clocked.trial)
    reports: list[CopyReport] = []

    def jump() -> None:
        clocked.target.move(HOURS)
        reports.append(rival(trial))

    end = ended(lambda: trial.copy(progress=at("publish", jump)))
    assert isinstance(end, LockLostError | FencedOutError), end
    assert (reports[0].status, reports[0].token) == ("published", 2)
    assert last_kind(trial) == "takeover-stale"
    assert trial.target.rows("SELECT token FROM safecopy.receipt") == [(2,)]
    assert invariant.hold("published") == "new"
    invariant.recovered(trial.copy)


# Back


def test_a_copy_does_not_mind_the_targets_clock_jumping_back(clocked: Clocked) -> None:
    """At each stage once. What is told of spans stays true."""
    trial, invariant = clocked.trial, before(clocked.trial)
    for stage in ("export", "verify", "publish"):
        report = trial.copy(progress=at(stage, lambda: clocked.target.move(-HOURS)))
        assert 0 < report.seconds < 60
        assert all(0 <= stage.seconds < 60 for stage in report.stages)
        assert invariant.hold(said(report)) == "new"
        invariant.recovered(trial.copy)
        clocked.target.move(0)
        trial.target.execute("DROP SCHEMA safecopy CASCADE")


@dataclass(frozen=True)
class Killed:
    """A command that was killed in the midst of its work, on this machine or as if on another."""

    trial: Trial

    def done(self, *, there: bool) -> None:
        trial, ready = self.trial, "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^COPY .*pg_sleep'"
        words = ["copy", "--source-sql", SLOW % 30, "--target-table", NAME, "--spool-dir", str(trial.spool)]
        where = {"SAFECOPY_SOURCE": trial.source.conninfo, "SAFECOPY_TARGET": trial.target.conninfo}
        command = [sys.executable, "-c", PROGRAM, "yes" if there else "no", *words]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=os.environ | where) as process:
            try:
                until(lambda: trial.source.value(ready) == 1)
            finally:
                process.kill()


# `safecopy` on this machine, or as if on another.
PROGRAM = """
import sys
from airflow_provider_safecopy.lock import process
elsewhere, *words = sys.argv[1:]
if elsewhere == "yes":
    process._read_boot_and_namespace = lambda: ("another boot", 1)
from airflow_provider_safecopy.cli.entry import main
sys.exit(main(words))
"""


def test_a_killed_run_of_this_machine_is_taken_over_at_once_though_the_clock_was_set_back(clocked: Clocked) -> None:
    trial, invariant = clocked.trial, before(clocked.trial)
    Killed(trial).done(there=False)
    clocked.target.move(-HOURS)
    assert invariant.hold("nothing") == "old"
    invariant.recovered(trial.copy)
    assert kinds(trial)[:2] == ["grant", "takeover-dead"]


def test_a_killed_run_of_another_machine_keeps_its_lock_until_it_is_released_if_the_clock_was_set_back(
    clocked: Clocked,
) -> None:
    """Neither its promise nor its last heartbeat is over by the new time: a person says that it is dead."""
    trial, invariant = clocked.trial, before(clocked.trial)
    Killed(trial).done(there=True)
    clocked.target.move(-HOURS)
    with pytest.raises(LockBusyError) as refused:
        trial.copy()
    assert refused.value.holder is not None
    assert AWAY.total_seconds() < refused.value.holder["takeable_in"] <= AWAY.total_seconds() + 600, "and says so"
    assert invariant.hold(said(refused.value)) == "old"
    with closing(PostgresStore(trial.target.endpoint)) as store:
        assert store.force_release(NAME, reason="시계가 뒤로 갔다") is not None
    invariant.recovered(trial.copy)
    assert [kind for kind in kinds(trial) if kind != "refused"][:3] == ["grant", "force-release", "grant"]


def kinds(trial: Trial) -> list[str]:
    return [kind for (kind,) in trial.target.rows("SELECT kind FROM safecopy.lock_event ORDER BY id")]


@pytest.mark.parametrize("hours", [-HOURS, -0.001], ids=["by hours", "by seconds"])
def test_a_lock_that_was_released_is_free_though_the_clock_was_set_back(clocked: Clocked, hours: float) -> None:
    """It had rested until the time at which it was granted came again, and nobody could release it."""
    trial, invariant = clocked.trial, before(clocked.trial)
    assert trial.copy().status == "published"
    clocked.target.move(hours)
    assert trial.copy().status == "published"
    assert invariant.hold("published") == "new"
    invariant.recovered(trial.copy)


def test_a_launch_gate_that_rests_opens_though_the_clock_was_set_back(clocked: Clocked) -> None:
    """It had hung all copies from this source for hours: its rest counted from a time that is still to come."""
    trial, invariant = clocked.trial, before(clocked.trial)
    assert trial.copy(connect_interval=0.5).status == "published"
    clocked.target.move(-HOURS)
    began = time.monotonic()
    assert trial.copy(connect_interval=0.5).status == "published"
    assert time.monotonic() - began < GRACE
    assert invariant.hold("published") == "new"
    invariant.recovered(trial.copy)


# To and fro


@pytest.mark.parametrize("publish", ["swap", "delta"])
def test_copies_go_on_while_the_clocks_jump_to_and_fro(clocked: Clocked, publish: str) -> None:
    """Each publishes, or says that it lost its lock, or was ended by a server's timeout; none hangs."""
    trial = clocked.trial
    source, target = clocked.clocks.values()
    for _ in range(2):
        invariant = before(trial)
        with source.jumping(-HOURS, HOURS, 0), target.jumping(HOURS, 0, -HOURS):
            began = time.monotonic()
            end = ended(lambda: trial.copy(stale_after=1, publish=publish, rate_limit=30_000))
            assert time.monotonic() - began < GRACE
        assert isinstance(end, CopyReport | LockLostError | FencedOutError | StageError), end
        invariant.hold(said(end))
        invariant.recovered(trial.copy)
        trial.reset()


# What waits in a server, with a timeout of the server's own


@contextmanager
def locked(database: Database, mode: str) -> Iterator[None]:
    """The table is somebody else's."""
    with database.connect() as session, session.transaction():
        session.execute(f"LOCK TABLE {TABLE} IN {mode} MODE".encode())
        yield


@contextmanager
def set_back_while_waiting(clocked: Clocked) -> Iterator[Future[float]]:
    """As soon as something waits for a lock in the target, its clock is set back; when, as `time.monotonic` has it."""

    def jump() -> float:
        until(lambda: clocked.trial.target.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        clocked.target.move(-HOURS)
        return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(jump)


def read_after(jump: Future[float], database: Database) -> float:
    """How many seconds a reader who comes after it waits for the table."""
    began = jump.result(100)
    database.value(f"SELECT count(*) FROM {TABLE}")
    return time.monotonic() - began


def test_a_publish_that_waits_while_the_clock_is_set_back_keeps_to_its_steps(clocked: Clocked) -> None:
    """The server would have told of its lock_timeout hours later, and readers had waited behind us so long."""
    trial, invariant = clocked.trial, before(clocked.trial)
    limits = Timeouts(publish=5)
    with (
        locked(trial.target, "ACCESS SHARE"),
        set_back_while_waiting(clocked) as jump,
        ThreadPoolExecutor(1) as pool,
    ):
        reader = pool.submit(read_after, jump, trial.target)
        began = time.monotonic()
        end = ended(lambda: trial.copy(publish="swap", timeouts=limits))
        assert time.monotonic() - began < limits.publish + GRACE
        assert reader.result(100) < GRACE
    assert isinstance(end, StageTimeoutError), end
    assert end.blockers, "and who was in the way"
    assert invariant.hold(said(end)) == "old"
    invariant.recovered(trial.copy)


def test_a_publish_that_waited_while_the_clock_was_set_back_goes_on_when_the_table_is_free(clocked: Clocked) -> None:
    trial, invariant = clocked.trial, before(clocked.trial)
    with trial.target.connect() as other, set_back_while_waiting(clocked) as jump, ThreadPoolExecutor(1) as pool:
        other.execute(f"BEGIN; LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE".encode())
        pool.submit(lambda: (jump.result(100), other.execute("ROLLBACK")))
        report = trial.copy(publish="delta")
    assert invariant.hold(said(report)) == "new"
    invariant.recovered(trial.copy)


def test_a_plan_that_waits_while_the_clock_is_set_back_ends_with_its_timeout(clocked: Clocked) -> None:
    trial, invariant = clocked.trial, before(clocked.trial)
    limits = Timeouts(verify=2)
    with locked(trial.target, "ACCESS EXCLUSIVE"), set_back_while_waiting(clocked):
        began = time.monotonic()
        end = ended(lambda: trial.copy(timeouts=limits))
        assert time.monotonic() - began < limits.verify + GRACE
    assert isinstance(end, StageError), end
    assert end.retryable
    assert invariant.hold(said(end)) == "old"
    invariant.recovered(trial.copy)


def test_who_asks_for_a_lock_while_the_clock_is_set_back_is_answered_in_time(clocked: Clocked) -> None:
    """Its row is held by somebody's open publish. What was asked may be granted later, to nobody who lives."""
    database = clocked.trial.target
    with database.connect() as session:
        schema.init(session)
    promise = Promise(stale_after=600, crash_grace=0.5)
    with closing(PostgresStore(database.endpoint)) as first:
        first.acquire(NAME, elsewhere("먼저"), promise)
    database.execute("UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 s'")
    with database.connect() as publisher, publisher.transaction():
        publisher.execute("SELECT FROM safecopy.lock FOR KEY SHARE")
        with set_back_while_waiting(clocked), closing(PostgresStore(database.endpoint)) as store:
            began = time.monotonic()
            with pytest.raises(LockStoreError, match="no answer within"):
                store.acquire(NAME, elsewhere("둘째"), promise)
            assert time.monotonic() - began < GRACE
    clocked.target.move(0)
    with closing(PostgresStore(database.endpoint)) as store:
        until(lambda: isinstance(store.acquire(NAME, elsewhere("셋째"), promise), Lease))

"""Clocks go wrong: the worker's by hours, forward and back; and a whole run stands still for longer than it may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.errors import FencedOutError, LockBusyError, LockLostError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.report import CopyReport
from tests.conftest import MakePsql
from tests.faults.conftest import TABLE, Ground
from tests.faults.invariant import Invariant, said
from tests.support.database import Database
from tests.support.fake_psql import Behaviour
from tests.support.until import until

NAME = "영업.주문_내역"
HOURS = 7
AWAY = 3600.0 * HOURS - 60
"""What must not be seen in any moment or span, in seconds: the clocks are that far apart."""

# `safecopy` with a clock of its own: every way Python tells the time of day, replaced before anything is imported.
# "jump" is another time at each look. The second argument says whether this is another machine than the test's.
PROGRAM = """
import datetime, itertools, sys, time
how, elsewhere, *words = sys.argv[1:]
away = itertools.cycle([-7, 7, 0]) if how == "jump" else itertools.repeat(int(how))
true = time.time
time.time = lambda: true() + 3600 * next(away)
time.time_ns = lambda: int(time.time() * 1_000_000_000)
class Moved(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def utcnow(cls):
        return cls.now(datetime.UTC).replace(tzinfo=None)
datetime.datetime = Moved
from airflow_provider_safecopy.lock import process
if elsewhere == "yes":
    process._read_boot_and_namespace = lambda: ("another boot", 1)
from airflow_provider_safecopy.cli.entry import main
sys.exit(main(words))
"""


@contextmanager
def started(ground: Ground, *words: str, clock: str = "0", elsewhere: bool = False) -> Iterator[subprocess.Popen[str]]:
    """`safecopy` in a process of its own; its stderr is read as text, its stdout is JSON."""
    environment = {**os.environ, "SAFECOPY_SOURCE": ground.source.conninfo, "SAFECOPY_TARGET": ground.target.conninfo}
    command = [sys.executable, "-c", PROGRAM, clock, "yes" if elsewhere else "no", *words, "--json", "-v"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def copying(ground: Ground, *words: str) -> tuple[str, ...]:
    table = ("--source-table", NAME, "--target-table", NAME)
    return ("copy", *table, "--spool-dir", str(ground.spool), *words)


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """The exit code, and the one object on stdout."""
    out, err = process.communicate(timeout=100)
    assert out, err
    return process.returncode, json.loads(out)


def look_before(ground: Ground) -> Invariant:
    """With the schema safecopy made: locks are held in it before the first copy."""
    with ground.target.connect() as session:
        schema.init(session)
    return Invariant.before(ground.source, ground.target, ("영업", "주문_내역"), ground.spool)


@contextmanager
def held(database: Database, promise: Promise) -> Iterator[PostgresStore]:
    """The table's lock, held by a run on another machine."""
    with closing(PostgresStore(database.endpoint)) as store:
        assert isinstance(store.acquire(NAME, elsewhere("먼 곳"), promise), Lease)
        yield store


def elsewhere(owner: str) -> Contender:
    return replace(Contender.alone(owner), process=None)


def last_kind(database: Database) -> str:
    return str(database.value("SELECT last_kind FROM safecopy.lock WHERE name = %s", [NAME]))


def seconds_in(value: object) -> list[float]:
    """Every span of time that a report holds, however deep."""
    if isinstance(value, dict):
        named = [each for key, each in value.items() if "seconds" in key or key == "takeable_in"]
        return [float(each) for each in named if each is not None] + [
            found for each in value.values() for found in seconds_in(each)
        ]
    return [found for each in value for found in seconds_in(each)] if isinstance(value, list) else []


def demand_true_times(report: dict[str, Any], began: datetime) -> None:
    """No span is negative or of hours, and the moment of the publish is the server's own."""
    spans = seconds_in(report)
    assert spans
    assert all(0 <= span < AWAY for span in spans), report
    published = datetime.fromisoformat(str(report["published_at"]))
    assert began <= published <= datetime.now(UTC)


@pytest.mark.parametrize("clock", [f"-{HOURS}", f"{HOURS}"], ids=["behind", "ahead"])
def test_who_may_take_a_lock_is_decided_by_the_servers_clock(ground: Ground, clock: str) -> None:
    """By its own clock a worker that is ahead would find the holder stale, and one that is behind never would."""
    invariant = look_before(ground)
    with held(ground.target, Promise(stale_after=600)):
        with started(ground, *copying(ground), clock=clock) as process:
            code, told = ended(process)
        assert code == exitcode.ERROR_CODES[LockBusyError]
        assert 500 < told["error"]["holder"]["takeable_in"] <= 600, "counted by the server"
        assert invariant.hold(said(code)) == "old"
        ground.target.execute("UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 s'")
        began = datetime.now(UTC)
        with started(ground, *copying(ground), clock=clock) as process:
            code, told = ended(process)
    assert code == exitcode.DONE
    assert invariant.hold(said(code)) == "new"
    assert told["token"] == 2
    demand_true_times(told, began)
    invariant.recovered(ground.copy)


def test_a_run_whose_clock_jumps_keeps_its_lock_as_long_as_it_works(ground: Ground) -> None:
    """Its promise is a second, it works for three, and by every look at its clock hours have passed."""
    invariant = look_before(ground)
    slow = f"SELECT t.* FROM (SELECT pg_sleep(2.5) OFFSET 0) s, {TABLE} t"
    words = ("copy", "--source-sql", slow, "--target-table", NAME, "--stale-after", "1s", "--spool-dir")
    began = datetime.now(UTC)
    with started(ground, *words, str(ground.spool), clock="jump") as process:
        until(lambda: ground.target.value("SELECT count(*) FROM safecopy.lock WHERE lease_id IS NOT NULL") == 1)
        with closing(PostgresStore(ground.target.endpoint)) as store:
            answers = [store.acquire(NAME, elsewhere("경쟁자"), Promise()) for _ in while_running(process)]
        code, told = ended(process)
    assert len(answers) > 5
    assert all(isinstance(answer, Holder) and 0 < answer.seconds_to_takeover <= 1 for answer in answers), answers
    assert code == exitcode.DONE, told
    demand_true_times(told, began)
    assert invariant.hold(said(code)) == "new"
    invariant.recovered(ground.copy)


def while_running(process: subprocess.Popen[str]) -> Iterator[None]:
    """Again and again, a little apart, for two seconds, in which it cannot have ended."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        yield
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)


# A machine that stands still


@contextmanager
def standing_still(processes: list[psutil.Process]) -> Iterator[None]:
    """None of them runs within; afterwards those that are left go on, the last one first."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            if process.is_running():
                process.send_signal(signal.SIGCONT)


def tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def backends(database: Database) -> list[psutil.Process]:
    """What serves the sessions of copies; nothing, where this user may not stop it."""
    sessions = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE starts_with(application_name, 'safecopy:') AND datname = current_database()"
    )
    return [psutil.Process(pid) for (pid,) in database.rows(sessions)] if os.geteuid() == 0 else []


def taken_over(ground: Ground) -> CopyReport:
    """A copy that is tried until it is let in."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return pipeline.copy(ground.spec(), ground.source.endpoint, ground.target.endpoint, owner="다음")
        except LockBusyError:
            assert time.monotonic() < deadline


def test_a_run_that_stood_still_with_its_server_sessions_publishes_nothing(ground: Ground, fake_psql: MakePsql) -> None:
    """Another machine's: nobody here can end its processes. Its sessions in the target are stopped as well."""
    invariant = look_before(ground)
    hanging = fake_psql(Behaviour("export", hang_after=300_000))
    words = copying(
        ground, "--psql", hanging, "--stale-after", "2s", "--transfer", "chunked", "--where", '"번호" < 15000'
    )
    with started(ground, *words, elsewhere=True) as process:
        wait_for(process, "export started")
        until(lambda: any("psql" in " ".join(each.cmdline()) for each in tree(process)[1:]))
        with standing_still([*tree(process), *backends(ground.target)]):
            report = taken_over(ground)
            assert (report.token, last_kind(ground.target)) == (2, "takeover-stale")
            assert invariant.hold("published") == "new", "the newer run's, while the other stands"
        code, told = ended(process)
    assert code == exitcode.ERROR_CODES[LockLostError], told
    assert ground.target.rows("SELECT token FROM safecopy.receipt") == [(2,)]
    assert invariant.hold("published") == "new"
    invariant.recovered(ground.copy)


def test_a_run_that_stood_still_in_its_publish_publishes_nothing(ground: Ground) -> None:
    """It stands before a table that somebody else has locked, all proofs in its hands."""
    invariant = look_before(ground)
    words = copying(ground, "--stale-after", "2s", "--publish", "delta", "--where", '"번호" < 9')
    with started(ground, *words, elsewhere=True) as process:
        with ExitStack() as still:
            with ground.target.connect() as rival, rival.transaction():
                rival.execute(f"LOCK TABLE {TABLE} IN EXCLUSIVE MODE".encode())
                wait_for(process, "verify done")
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
                until(lambda: ground.target.value(waiting, [TABLE]) == 1)
                still.enter_context(standing_still(tree(process)))
            assert taken_over(ground).token == 2
        code, told = ended(process)
    assert code in {exitcode.ERROR_CODES[LockLostError], exitcode.ERROR_CODES[FencedOutError]}, told
    assert ground.target.rows("SELECT token FROM safecopy.receipt") == [(2,)]
    assert invariant.hold("published") == "new"
    invariant.recovered(ground.copy)


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read stderr up to the line that holds them."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"it never said {words!r}, but: {''.join(seen)}")

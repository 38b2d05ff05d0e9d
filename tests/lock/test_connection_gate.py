"""The launch gate: whoever opens a connection to a source does so alone and in time; how many run is no concern of it."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError, LockStoreError, StageError
from airflow_provider_safecopy.lock import connection_gate as module
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.connection_gate import ConnectionGate, Opening
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.postgres.activity import ActivityWatch
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from tests.conftest import NothingLeft
from tests.support.customers import SHAPE, TABLE, fill
from tests.support.database import Database

SOURCE = "원천:5432/영업"
LOCK = f"launch {SOURCE}"
STARTERS = 20
PATIENCE = 60.0
# A session's start is read a moment after it was accepted.
TOLERANCE = 0.002


@pytest.fixture
def made(target: Database) -> Database:
    """A target that holds the schema safecopy."""
    with target.connect() as session:
        schema.init(session)
    return target


@contextmanager
def gate(
    database: Database, *, interval: float | None = 0.1, opening: float = 60, contender: Contender | None = None
) -> Iterator[ConnectionGate]:
    """The gate, as a starter with a store of its own sees it."""
    contender = contender or Contender.alone("시험")
    store = PostgresStore(database.endpoint, attempt=contender.attempt)
    try:
        yield ConnectionGate(store, SOURCE, interval, contender, opening)
    finally:
        store.close()


@contextmanager
def running(script: str, *lines: str) -> Iterator[subprocess.Popen[str]]:
    """Python at work on a script, told the lines on its stdin; it and its children are gone afterwards."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    try:
        assert process.stdin is not None
        process.stdin.write("".join(f"{line}\n" for line in lines))
        process.stdin.flush()
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(session: psycopg.Connection[Any], query: str) -> None:
    """Wait until a query says true."""
    deadline = time.monotonic() + PATIENCE
    while not session.execute(query.encode()).fetchall()[0][0]:
        assert time.monotonic() < deadline, query
        threading.Event().wait(0.02)


# Twenty copies that start at once

STARTERS_OF_COPIES = """
import logging, os, sys, traceback
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec

source, target, starters, interval, query = (sys.stdin.readline().rstrip("\\n") for _ in range(5))
logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s")


def start(number):
    if pid := os.fork():
        return pid
    spec = CopySpec.of(source_sql=query, target_table=("분석", f"고객_{number}"), connect_interval=float(interval))
    try:
        pipeline.copy(spec, Endpoint.from_conninfo(source), Endpoint.from_conninfo(target), owner=f"시작 {number}")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


started = [start(number) for number in range(int(starters))]
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in started))
"""
# Each session of a copy is written down by the server as it begins.
LOGINS = """
CREATE TABLE public.logins (opened timestamptz, ready timestamptz, copy text);
CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.logins SELECT backend_start, clock_timestamp(), application_name
    FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid() AND application_name LIKE 'safecopy:%';
END $$;
CREATE EVENT TRIGGER note ON login EXECUTE FUNCTION public.note();
"""
HELD = f"WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(4711)) SELECT c.* FROM {TABLE} c, held"
HOLDING = "SELECT count(*) = 20 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
CONNECTED = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name ^@ 'safecopy:' AND datname = current_database()"
)


@pytest.mark.slow
@pytest.mark.pair(18, 16)  # 18 notes logins; on one server, all these sessions would be too many
def test_twenty_copies_open_one_after_the_other_and_then_run_all_at_once(
    source: Database, target: Database, nothing_left: NothingLeft
) -> None:
    interval = 0.1
    source.execute(SHAPE)
    fill(source, 50)
    source.execute(LOGINS)
    shapes = "".join(f'CREATE TABLE 분석."고객_{number}" (LIKE {TABLE});' for number in range(STARTERS))
    target.execute(f'{SHAPE} CREATE SCHEMA "분석"; {shapes}')
    asked = (source.conninfo, target.conninfo, str(STARTERS), str(interval), HELD)
    with source.connect() as session, running(STARTERS_OF_COPIES, *asked) as starters:
        session.execute("SELECT pg_advisory_lock(4711)")
        until(session, HOLDING)  # all of them are in their export now, and none has ended
        at_once = session.execute(CONNECTED.encode()).fetchall()[0][0]
        session.execute("SELECT pg_advisory_unlock(4711)")
        log, _ = starters.communicate(timeout=PATIENCE)
    assert starters.returncode == 0, log
    assert at_once >= 2 * STARTERS
    for number in range(STARTERS):
        assert target.value(f'SELECT count(*) FROM 분석."고객_{number}"') == 50
    demand_spacing(source, interval)
    demand_log_lines(log)
    assert target.rows("SELECT kind FROM safecopy.lock_event WHERE name ^@ 'launch '") == []
    nothing_left(source, target)


def demand_spacing(source: Database, interval: float) -> None:
    """As the source saw it: never two opening at once, those of two copies never closer, and no longer than that takes."""
    logins: list[tuple[datetime, datetime, str]] = source.rows(
        "SELECT opened, ready, copy FROM public.logins ORDER BY opened"
    )
    pairs = list(pairwise(logins))
    assert len(logins) >= 2 * STARTERS  # a control session and an export's; and of who looked whether it works
    apart = [(after[0] - before[0]).total_seconds() for before, after in pairs if before[2] != after[2]]
    assert min(apart) >= interval - TOLERANCE
    assert all(after[0] > before[1] for before, after in pairs)
    needed = (STARTERS - 1) * interval
    took = (logins[2 * STARTERS - 1][0] - logins[0][0]).total_seconds()
    assert took < 30 * needed


def demand_log_lines(log: str) -> None:
    """Each starter tells that it acquired the gate once, opened both its connections, and released the gate."""
    told: dict[str, list[str]] = {}
    for pid, word in re.findall(r"^(\d+) launch gate of \S+: (acquired|opened|released)", log, re.MULTILINE):
        told.setdefault(pid, []).append(word)
    assert len(told) == STARTERS
    for words in told.values():
        assert words[:4] == ["acquired", "opened", "opened", "released"]
        assert words.count("acquired") == 1


# Turns


def through(database: Database, interval: float, start: threading.Barrier) -> tuple[float, float, float]:
    """Go through the gate once: when we came, and when we were inside, from and to."""
    with gate(database, interval=interval) as ours:
        start.wait(PATIENCE)
        came = time.monotonic()
        with ours.wait_turn(AbortSwitch()):
            entered = time.monotonic()
        return came, entered, time.monotonic()


def test_twenty_starters_take_turns_and_do_not_hammer_the_target(made: Database, mocker: MockerFixture) -> None:
    interval, start = 0.05, threading.Barrier(STARTERS)
    looks = mocker.spy(PostgresStore, "acquire")
    with ThreadPoolExecutor(STARTERS) as executor:
        turns = list(executor.map(lambda _: through(made, interval, start), range(STARTERS)))
    entered = sorted(turn[1] for turn in turns)
    apart = [after - before for before, after in pairwise(entered)]
    assert min(apart) >= interval
    assert entered[-1] - entered[0] < 30 * interval * STARTERS
    rounds = STARTERS * (STARTERS + 1) // 2
    assert looks.call_count < 4 * rounds


@pytest.mark.slow
def test_nobody_starves_where_starters_keep_coming(made: Database) -> None:
    passed: list[int] = []
    stop = threading.Event()

    def keep_coming(number: int) -> None:
        with gate(made, interval=0.01) as ours:
            while not stop.is_set():
                with ours.wait_turn(AbortSwitch()):
                    passed.append(number)

    with ThreadPoolExecutor(6) as executor:
        for number in range(6):
            executor.submit(keep_coming, number)
        deadline = time.monotonic() + PATIENCE
        while len(passed) < 120 and time.monotonic() < deadline:
            stop.wait(0.01)
        stop.set()
    waits = [
        after - before
        for number in range(6)
        for places in [[-1, *(place for place, who in enumerate(passed) if who == number), len(passed)]]
        for before, after in pairwise(places)
    ]
    assert len(passed) >= 120
    assert max(waits) < 40


def test_tasks_of_one_run_take_turns_as_all_do(made: Database) -> None:
    run = Contender("배치|dag|run", member="고객_복사", attempt=Contender.alone().attempt)
    sibling = Contender("배치|dag|run", member="주문_복사", attempt=Contender.alone().attempt)
    with gate(made, contender=run) as one, gate(made, contender=sibling) as other:
        with one.wait_turn(AbortSwitch()), other.try_enter() as mine:
            assert not mine
        with other.try_enter() as mine:
            assert not mine  # it rests


def test_the_interval_counts_from_when_the_connection_is_open(made: Database) -> None:
    with gate(made, interval=0.3) as one, gate(made, interval=0.3) as other:
        with one.wait_turn(AbortSwitch()):
            threading.Event().wait(0.5)  # an opening slower than the interval
            opened = time.monotonic()
        with other.wait_turn(AbortSwitch()):
            assert time.monotonic() - opened >= 0.3


def test_without_an_interval_there_is_no_gate(target: Database) -> None:
    with gate(target, interval=None) as one, one.wait_turn(AbortSwitch()), one.try_enter() as mine:
        assert mine
    assert target.value("SELECT to_regnamespace('safecopy') IS NULL")


def test_what_happens_is_told_in_the_log(made: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_safecopy.lock.connection_gate")
    with gate(made) as one, gate(made) as other:
        with one.wait_turn(AbortSwitch()):
            pass
        with other.wait_turn(AbortSwitch()):
            pass
    told = [record.getMessage().removeprefix(f"launch gate of {SOURCE}: ") for record in caplog.records]
    passing = ["acquired", "opened", "released"]
    assert [re.split(r"\W", line)[0] for line in told] == [*passing, "waiting", *passing]
    assert re.fullmatch(r"acquired after 0\.\d\d s \(grant\)", told[0])
    assert re.fullmatch(r"waiting; it opens in 0\.\d\d s", told[3])


def test_who_waits_for_a_long_time_is_called_now_and_then(made: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a copy that waits for its second turn, holding its locks, can say that it lives."""
    monkeypatch.setattr(module, "_POLL_SECONDS", (0.02, 0.2))
    calls: list[float] = []
    with gate(made, interval=1.5) as one, gate(made, interval=1.5) as other:
        with one.wait_turn(AbortSwitch()):
            pass
        with other.wait_turn(AbortSwitch(), on_wait=lambda: calls.append(time.monotonic())):
            pass
    assert calls[-1] - calls[0] > 1
    assert len(calls) >= 3, "not only at the beginning and in the end"


# One turn for all connections of a copy


@contextmanager
def opening(database: Database, **options: Any) -> Iterator[Opening]:
    """One turn for all that a copy opens."""
    with gate(database, **options) as ours:
        made = Opening(ours, AbortSwitch())
        yield made
        made.close()


def test_a_turn_is_held_between_connections_until_it_is_closed(made: Database) -> None:
    with opening(made) as ours, gate(made) as other:
        for _ in range(2):
            with ours.turn():
                pass
            with other.try_enter() as mine, ours.glance() as also:
                assert (mine, also) == (False, True)
        ours.close()
        ours.close()
        with other.wait_turn(AbortSwitch()):
            pass
    assert made.value("SELECT token FROM safecopy.lock WHERE name = %s", [LOCK]) == 2


def test_the_interval_counts_from_when_the_last_connection_is_open(made: Database) -> None:
    with opening(made, interval=0.3) as ours, gate(made, interval=0.3) as other:
        with ours.turn():
            pass
        threading.Event().wait(0.4)
        with ours.turn():
            pass
        ours.close()
        closed = time.monotonic()
        with other.wait_turn(AbortSwitch()):
            assert time.monotonic() - closed >= 0.3 - TOLERANCE


def test_who_plans_for_too_long_takes_another_turn(made: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may have been let in meanwhile: no copy keeps others waiting longer than opening may take."""
    with opening(made, interval=0.01, opening=40) as ours:
        with ours.turn():
            pass
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 21))
        with ours.turn():
            pass
    assert made.value("SELECT token FROM safecopy.lock WHERE name = %s", [LOCK]) == 2


def test_a_connection_that_fails_gives_the_turn_back_with_the_opening(
    made: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_safecopy.lock.connection_gate")
    with opening(made) as ours, pytest.raises(StageError), ours.turn():
        raise StageError("gone", stage="connect")
    words = [record.getMessage().rpartition(": ")[2].split()[0] for record in caplog.records]
    assert words == ["acquired", "released"]


def test_without_an_interval_an_opening_is_no_turn(target: Database) -> None:
    with opening(target, interval=None) as ours, ours.turn(), ours.glance() as mine:
        assert mine
    assert target.value("SELECT to_regnamespace('safecopy') IS NULL")


# Those who fail, stop or die inside


def test_a_source_that_cannot_be_reached_releases_the_gate(made: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_safecopy.lock.connection_gate")
    nowhere = Endpoint.from_conninfo("host=127.0.0.1 port=1 dbname=erp")
    with gate(made) as one, pytest.raises(StageError, match="cannot connect"), one.wait_turn(AbortSwitch()):
        nowhere.connect(application_name="safecopy:시험", connect_timeout=2)
    assert [record.getMessage().split()[-1] for record in caplog.records][-1] == "released"
    assert not [record for record in caplog.records if record.getMessage().endswith("opened")]
    with gate(made) as other, other.wait_turn(AbortSwitch()):
        pass


def test_an_abort_ends_the_waiting_at_once(made: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", (PATIENCE, PATIENCE))  # no look in between would notice it
    abort, waits = AbortSwitch(), threading.Event()

    def wait() -> None:
        with gate(made) as other, other.wait_turn(abort, on_wait=waits.set):
            pytest.fail("let in beside another")

    with gate(made) as one, one.wait_turn(AbortSwitch()), ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(wait)
        assert waits.wait(PATIENCE)
        abort.throw("시험")
        with pytest.raises(AbortedError):
            waiting.result(PATIENCE / 3)


INSIDE = """
import sys
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.lock.connection_gate import ConnectionGate
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.lock.postgres import PostgresStore

conninfo, source, opening = (sys.stdin.readline().rstrip("\\n") for _ in range(3))
contender = Contender.alone("안에서 죽는 시작")
store = PostgresStore(Endpoint.from_conninfo(conninfo), attempt=contender.attempt)
with ConnectionGate(store, source, 0.1, contender, float(opening)).wait_turn(AbortSwitch()):
    print("inside", flush=True)
    sys.stdin.readline()
print("outside", flush=True)
"""


@contextmanager
def inside(database: Database, opening: float) -> Iterator[subprocess.Popen[str]]:
    """A process that is inside the gate, and leaves it when told to."""
    with running(INSIDE, database.conninfo, SOURCE, str(opening)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        yield process


def test_who_was_killed_inside_is_displaced_at_once(made: Database) -> None:
    with inside(made, opening=60) as process, gate(made) as other:
        with other.try_enter() as mine:
            assert not mine
        process.kill()
        process.wait()
        began = time.monotonic()
        with other.wait_turn(AbortSwitch()):
            assert time.monotonic() - began < 40  # a look, and not the minute it might have taken to open
    kinds = made.rows("SELECT kind, owner->>'owner' FROM safecopy.lock_event WHERE name = %s", [LOCK])
    assert kinds == [("takeover-dead", "시험")]


def test_starters_already_waiting_notice_a_killed_one_within_a_second_or_so(made: Database) -> None:
    waits = threading.Event()

    def wait() -> float:
        with gate(made, interval=30) as other, other.wait_turn(AbortSwitch(), on_wait=waits.set):
            return time.monotonic()

    with inside(made, opening=60) as process, ThreadPoolExecutor(1) as executor:
        entered = executor.submit(wait)
        assert waits.wait(PATIENCE)
        process.kill()
        process.wait()
        killed = time.monotonic()
        assert entered.result(PATIENCE) - killed < 20


def test_who_hangs_inside_is_displaced_when_opening_should_have_ended_and_keeps_its_life(made: Database) -> None:
    with inside(made, opening=1) as process, gate(made) as other:
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with other.wait_turn(AbortSwitch()):
            assert time.monotonic() - began < 50
            process.send_signal(signal.SIGCONT)
            out, _ = process.communicate("\n", timeout=PATIENCE)
            assert (out, process.returncode) == ("outside\n", 0)
            with gate(made) as third, third.try_enter() as mine:
                assert not mine  # its release has not released ours
    assert made.value("SELECT kind FROM safecopy.lock_event WHERE name = %s", [LOCK]) == "takeover-stale"


def test_who_is_elsewhere_blocks_no_longer_than_opening_may_take(made: Database) -> None:
    elsewhere = Contender("멀리|있는", {"owner": "멀리 있는 시작"}, process=None)
    with gate(made, opening=0.7, contender=elsewhere) as one:
        assert isinstance(one.store.acquire(LOCK, elsewhere, Promise(stale_after=0.7, crash_grace=None)), Lease)
        began = time.monotonic()
        with gate(made) as other, other.wait_turn(AbortSwitch()):
            assert 0.5 < time.monotonic() - began < 50


def test_nobody_ends_a_copy_because_of_its_gate(made: Database) -> None:
    """The gate's holder has neither the copy's name nor leave to end its process."""
    contender = Contender.alone("시험")
    with gate(made, contender=contender) as one, one.wait_turn(AbortSwitch()):
        holder = one.store.read_holder(LOCK)
        assert holder is not None
        (seen,) = holder.members
        assert seen.attempt != str(contender.attempt)
        assert seen.process is not None
        assert (seen.process.pid, seen.process.may_end) == (os.getpid(), False)


def test_a_target_lost_while_a_connection_opens_costs_the_spacing_and_not_the_copy(
    made: Database, caplog: pytest.LogCaptureFixture, mocker: MockerFixture
) -> None:
    with gate(made) as one, one.wait_turn(AbortSwitch()):
        mocker.patch.object(one.store, "release", side_effect=LockStoreError("gone"))
    assert "could not be released, and opens by itself: gone" in caplog.text


# Who only looks whether a server works


def test_the_watch_of_a_copy_goes_through_the_gate_or_does_without(made: Database, source: Database) -> None:
    asked = "safecopy:watch"
    with gate(made) as one, gate(made) as other:
        watch = ActivityWatch(source.endpoint, application_name=asked, enter_gate=other.try_enter)
        connected = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{asked}'"
        try:
            with one.wait_turn(AbortSwitch()):
                assert not watch.is_working()
                assert source.value(connected) == 0
            deadline = time.monotonic() + PATIENCE
            while source.value(connected) == 0 and time.monotonic() < deadline:
                watch.is_working()
            assert source.value(connected) == 1
        finally:
            watch.close()

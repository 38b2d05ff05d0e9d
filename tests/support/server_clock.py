"""A server's own clock, which can be moved while it runs: libfaketime, loaded into PostgreSQL and into nothing else."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Self

import pytest

from airflow_provider_safecopy.demo.servers import Server
from tests.support.outage import Outage

_LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"
_JUMP_SECONDS = 0.1


class ServerClock:
    """That of one server of the test's own. It goes at the usual pace, so many hours ahead; behind, where negative."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @classmethod
    def of(cls, server: Server) -> Self:
        """Restart a server with such a clock, which is right at first. Skips the test where there can be none."""
        account, home = server._home.account, server.socket_directory
        clock, library = cls(home / "clock"), home / "libfaketime.so.1"
        clock.move(0)
        shutil.copyfile(_library(), library)
        library.chmod(0o755)  # for the server, which may run as somebody else
        # Read anew at each look; how long something takes, and when files were written, is told as it is.
        inside = ["env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={clock._file}", "FAKETIME_NO_CACHE=1"]
        inside += ["FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]
        outage = Outage(server)
        command = [*inside, outage._command[0], "--version"]
        probe = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **account.options())
        if probe.returncode != 0 or probe.stderr:
            assert platform.machine() != "x86_64", f"libfaketime is made for this system: {probe.stderr.strip()}"
            pytest.skip(f"libfaketime cannot be loaded here: {probe.stderr.strip()}")
        outage.down(by=signal.SIGINT)
        outage.up(inside=inside)
        with clock.moved(24):
            ((now,),) = server.execute("postgres", "SELECT clock_timestamp()")
        assert now - datetime.now(UTC) > timedelta(hours=23), "its clock did not move"
        return clock

    def move(self, hours: float) -> None:
        """For all sessions of the server at once, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{hours * 3600:+.0f}\n")
        new.chmod(0o644)
        new.replace(self._file)

    @contextmanager
    def moved(self, hours: float) -> Iterator[None]:
        """Within the block; then it is right again."""
        self.move(hours)
        try:
            yield
        finally:
            self.move(0)

    @contextmanager
    def jumping(self, *hours: float) -> Iterator[None]:
        """From one to the next all the time, within the block; then it is right again."""
        ended = threading.Event()

        def jump() -> None:
            for each in cycle(hours):
                self.move(each)
                if ended.wait(_JUMP_SECONDS):
                    return

        thread = threading.Thread(target=jump, name="jumping clock")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.move(0)


def _library() -> Path:
    """Looked for, not imported: the package would meddle with this very process."""
    found = find_spec("libfaketime")
    assert found is not None, "libfaketime is missing: it belongs to the dependencies of development"
    assert found.origin is not None
    return Path(found.origin).parent / _LIBRARY

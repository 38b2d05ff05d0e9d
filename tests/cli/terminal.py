"""A terminal for a command: what stands on it, and a person's Ctrl-C."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, ours: int, process: subprocess.Popen[bytes]) -> None:
        self._ours = ours
        self._process = process
        self._raw = b""

    @property
    def said(self) -> str:
        return self._raw.decode(errors="replace")

    def wait_for(self, words: str) -> str:
        """Read until it has said this; all it has said. Fails if it ends before."""
        while words not in self.said:
            if not self._read():
                pytest.fail(f"never said {words!r}, but: {self.said}")
        return self.said

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def ends(self) -> int:
        """Its exit code, once it has ended and all it said is read."""
        while self._read():
            pass
        return self._process.wait(100)

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # how a terminal says that nobody is left
            return False
        self._raw += data
        return bool(data)


@contextmanager
def on_a_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=dict(environment),
        preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509 -- Ctrl-C goes to the terminal's own session
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)

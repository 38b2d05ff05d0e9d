"""A psql that dies, hangs, garbles and lies, standing before the real one.

It is started as psql is: same arguments, same environment, same inherited descriptors; its behaviour is
therefore baked into the file it is started by. Between its parent and the real psql it passes every byte
of the COPY stream and of stderr through its own hands, and misbehaves on the way. What is not to be
misbehaved in, ``--version`` included, is the real psql itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import secrets
import shlex
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

Stage = Literal["export", "import"]

_DESCRIPTOR = re.compile(r"/proc/self/fd/(\d+)")
_MARK = re.compile(rb"safecopy [0-9a-f]+ .*\n")
_ROWS = re.compile(rb"(safecopy [0-9a-f]+ rows )(.*)\n")
_NONCE = re.compile(r"\\warn safecopy ([0-9a-f]+) ")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Behaviour:
    """How to misbehave, in which stage. Offsets and sizes are bytes of the COPY stream of that stage."""

    stage: Stage
    die_after: int | None = None
    """End after passing on so many bytes, or at the end of a shorter stream, before saying that it is the end."""
    exit_code: int = -signal.SIGKILL
    """How to end: by this exit code, or if negative by that signal."""
    die_at_rows: bool = False
    """End, by `exit_code`, as soon as the server has counted the rows: an import then has not been told to commit."""
    hang_at: Literal["start", "eof", "exit"] | None = None
    """Hang before connecting; before passing the end of the stream on; or when all is done but the exit."""
    hang_after: int | None = None
    """Hang after passing on so many bytes, or at the end of a shorter stream."""
    stubborn: bool = False
    """Whether SIGINT and SIGTERM change nothing."""
    flip_at: int | None = None
    """Flip the lowest bit of the byte at this offset: a digit becomes its neighbour."""
    truncate: int = 0
    """Swallow the last so many bytes, and exit as if nothing were missing."""
    trailing: str = ""
    """Add this to the end of the stream."""
    late: bool = False
    """Export only: add what is `trailing` once the number of rows has been told, and not before."""
    rows: str | None = None
    """Report this number of rows instead of the server's; empty: report none."""
    twice: bool = False
    """Say every mark twice."""
    first: str = ""
    """Say this mark before anything else, and not again when its time has come."""
    stranger: bool = False
    """Say all marks under a nonce of another's."""
    silent: bool = False
    """Exit with 0 at once, having said and done nothing."""
    forge: bool = False
    """Import only: swallow all rows, report their number (of lines) and a commit, and exit with 0."""
    flood: int = 0
    """First say so many bytes of noise on stderr."""
    width: int = 0
    """How many bytes of it are one line, at least."""


def write(directory: Path, real: str, behaviour: Behaviour) -> Path:
    """A file to be started in psql's place."""
    path = directory / f"psql-{secrets.token_hex(4)}"
    words = (sys.executable, "-IS", __file__, real, json.dumps(asdict(behaviour)))
    # Not a line of Python's own: its path may hold blanks, which `#!` cannot quote.
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
    return path


class Stand:
    """Between the parent and the real psql."""

    def __init__(self, real: str, behaviour: Behaviour, arguments: list[str]) -> None:
        self.behaviour = behaviour
        self.command = [real, *arguments]
        self.child: subprocess.Popen[bytes] | None = None
        self.told, self._tell = os.pipe()
        self._counted = threading.Event()

    def run(self) -> NoReturn:
        """Do as psql does, but for the behaviour."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)
        self._flood()
        if self.behaviour.silent:
            os._exit(0)
        if self.behaviour.hang_at == "start":
            self._hang()
        if self.behaviour.first:
            self._mark(self.behaviour.first)
        if self.behaviour.forge:
            self._forge()
        incoming, outgoing = self._interpose()
        listener = threading.Thread(target=self._relay_stderr)
        listener.start()
        # A BrokenPipeError: the other side is gone, and the closed pipe tells this side so.
        with contextlib.suppress(BrokenPipeError):
            self._relay(incoming, outgoing)
        os.close(incoming)
        os.close(outgoing)
        assert self.child is not None
        exit_code = self.child.wait()
        listener.join()
        if self.behaviour.hang_at == "exit":
            self._hang()
        _end(self.behaviour.exit_code if self.behaviour.die_at_rows else exit_code)

    def _interpose(self) -> tuple[int, int]:
        """Start the real psql with our pipe in place of the stream's; the two ends left to us."""
        exporting = self.behaviour.stage == "export"
        place = int(_DESCRIPTOR.findall(_script())[-1]) if exporting else 0
        other = os.dup(place)
        reading, writing = os.pipe()
        os.dup2(writing if exporting else reading, place)
        self.child = subprocess.Popen(
            self.command,
            stderr=subprocess.PIPE,
            close_fds=False,  # what was inherited is inherited on
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing else runs here yet
        )
        os.close(place)
        for number in {int(found) for word in self.command for found in _DESCRIPTOR.findall(word)}:
            os.close(number)  # so that the parent sees the real psql's end of its pipes close
        os.close(writing if exporting else reading)
        return (reading, other) if exporting else (other, writing)

    def _relay(self, incoming: int, outgoing: int) -> None:
        limits = [each for each in (self.behaviour.die_after, self.behaviour.hang_after) if each is not None]
        left = min(limits) if limits else None
        for piece in self._garbled(incoming):
            _write(outgoing, piece if left is None else piece[:left])
            if left is not None and (left := left - len(piece)) <= 0:
                break
        if self.behaviour.die_after is not None:
            self._die()
        if self.behaviour.hang_after is not None or self.behaviour.hang_at == "eof":
            self._hang()

    def _garbled(self, incoming: int) -> Iterator[bytes]:
        kept, offset, flip = b"", 0, self.behaviour.flip_at
        while data := os.read(incoming, 65536):
            if flip is not None and offset <= flip < offset + len(data):
                here = flip - offset
                data = data[:here] + bytes([data[here] ^ 1]) + data[here + 1 :]
            offset += len(data)
            kept += data
            passed, kept = kept[: len(kept) - self.behaviour.truncate], kept[-self.behaviour.truncate :]
            if not self.behaviour.truncate:
                passed, kept = kept, b""
            yield passed
        if trailing := self.behaviour.trailing.encode():
            if self.behaviour.late:
                self._counted.wait(60)
            yield trailing

    def _relay_stderr(self) -> None:
        # A signal taken by this thread would not wake the other, which alone may act on it.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        assert self.child is not None
        assert self.child.stderr is not None
        for line in self.child.stderr:
            counted = _ROWS.fullmatch(line) is not None
            if counted and self.behaviour.die_at_rows:
                self.child.kill()
                self.child.wait()  # nobody reads its gate any more
            _write(2, self._said(line) if _MARK.fullmatch(line) else line)
            if counted:
                self._counted.set()

    def _said(self, mark: bytes) -> bytes:
        """What is said in place of a mark."""
        if self.behaviour.rows is not None and (match := _ROWS.fullmatch(mark)):
            mark = match[1] + self.behaviour.rows.encode() + b"\n" if self.behaviour.rows else b""
        if not mark or mark.split()[2] == self.behaviour.first.partition(" ")[0].encode():
            return b""
        if self.behaviour.stranger:
            mark = mark.replace(mark.split()[1], b"0" * 16)
        return mark * 2 if self.behaviour.twice else mark

    def _mark(self, told: str) -> None:
        """Say a mark of our own making."""
        words = [_script()] if self.behaviour.stage == "export" else _memory_files(self.command)
        nonce = next(match[1] for word in words if (match := _NONCE.search(word)))
        _write(2, f"safecopy {nonce} {told}\n".encode())

    def _forge(self) -> NoReturn:
        lines = 0
        while data := os.read(0, 65536):
            lines += data.count(b"\n")
        self._mark(f"rows {lines}")
        self._mark("changed ")
        last = int([found for word in self.command for found in _DESCRIPTOR.findall(word)][-1])
        while os.read(last, 65536):
            pass
        self._mark("committed")
        os._exit(0)

    def _flood(self) -> None:
        noise = b"WARNING:  01000: " + "소음 ".encode() * 12
        line = noise * max(1, self.behaviour.width // len(noise)) + b"\n"
        piece = line * max(1, 65536 // len(line))
        for _ in range(self.behaviour.flood // len(piece)):
            _write(2, piece)

    def _die(self) -> NoReturn:
        assert self.child is not None
        self.child.kill()
        self.child.wait()
        _end(self.behaviour.exit_code)

    def _hang(self) -> NoReturn:
        """Until told to end; then as the real one ends."""
        number = os.read(self.told, 1)[0]
        _end((self.child.wait() if self.child else 0) or -number)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on. Nothing here may wait: it interrupts whatever else is waiting."""
        if self.behaviour.stubborn:
            return
        if self.child is not None and self.child.returncode is None:
            os.kill(self.child.pid, number)
        os.write(self._tell, bytes([number]))


def _script() -> str:
    """The script on stdin, a file in memory, without moving on in it."""
    return os.pread(0, os.fstat(0).st_size, 0).decode()


def _memory_files(arguments: list[str]) -> Iterator[str]:
    """The scripts in memory among the files that psql is given."""
    for descriptor in (int(found) for word in arguments for found in _DESCRIPTOR.findall(word)):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            yield os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()


def _stage(arguments: list[str]) -> Stage | None:
    if arguments[-2:] == ["-f", "-"]:
        return "export"
    return "import" if any(word.startswith("COPY ") for word in arguments) else None


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _end(exit_code: int) -> NoReturn:
    if exit_code < 0:
        signal.signal(-exit_code, signal.SIG_DFL) if -exit_code != signal.SIGKILL else None
        os.kill(os.getpid(), -exit_code)
        signal.pause()
    os._exit(exit_code)


def main() -> NoReturn:
    real, told, *arguments = sys.argv[1:]
    behaviour = Behaviour(**json.loads(told))
    if _stage(arguments) != behaviour.stage:
        os.execv(real, [real, *arguments])
    Stand(real, behaviour, arguments).run()


if __name__ == "__main__":
    main()

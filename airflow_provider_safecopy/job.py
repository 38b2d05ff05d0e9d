"""Run any command under a living lock: its output is progress, and a command that stands still is ended.

For cron, systemd and workers. The command runs in a process group of its own, led by a guardian: a small process that
ends the whole group as soon as this process is gone, however it ended. What leaves that group, as a daemon does, is not
part of the job.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

from airflow_provider_safecopy import shortage
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.postgres.memory import memory_file

log = logging.getLogger(__name__)

HEARTBEAT = "SAFECOPY_HEARTBEAT"
"""The variable that names the file whose touch is progress."""

STALLED = 124
"""The exit code of a command that was ended because it stood still, as timeout(1) has it."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PASSED_ON = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 5.0
_REST_SECONDS = 1.0
_CHUNK = 65536


@dataclass(frozen=True)
class JobEnd:
    """The end of a job: its exit code, its restarts, and whether it stood still.

    The exit code is that of a shell: 128 + the number of the signal that ended it.
    """

    code: int
    restarts: int
    stalled: bool


class Job:
    """A run of `command` while `lock` is held; enter the lock first.

    Progress is each byte of output and each touch of the file in ``$SAFECOPY_HEARTBEAT``. A command without progress
    for nearly the lock's `stale_after` is ended: SIGTERM, then SIGKILL after 5 s at most. It is started again up to
    `restarts` times, unless a signal asked it to end. Signals that reach this process are passed on to the command.

    Not promised: that a process which left the command's process group is ended.
    """

    def __init__(self, command: Sequence[str], lock: LivingLock, *, restarts: int = 0) -> None:
        self._command = tuple(command)
        self._lock = lock
        self._restarts = restarts
        self._group: _Group | None = None
        self._progress = 0
        self._is_asked_to_end = False
        self._waiting: list[int] = []

    def run(self) -> JobEnd:
        """Run the command to its end. Raises `LockLostError` once the lock is lost, `ConfigError` if it cannot start."""
        with _open_heartbeat_file() as file, self._passing_signals_on():
            for restarts in range(self._restarts + 1):
                code = self._attempt(file)
                if code is not None:
                    return JobEnd(code, restarts, stalled=False)
                if self._is_asked_to_end or restarts == self._restarts:
                    break
                log.warning("the command stood still; it is started again (%d of %d)", restarts + 1, self._restarts)
                self._progress += 1
                # At once, and not when the next heartbeat is due: the lock's time is nearly up.
                self._lock.send_heartbeat(phase=0, count=self._progress)
            return JobEnd(STALLED, restarts, stalled=True)

    def _attempt(self, file: int) -> int | None:
        """Return the exit code of one run of the command; None if it stood still and was ended."""
        with _Group() as group:
            group.start(self._command, {HEARTBEAT: f"/proc/{os.getpid()}/fd/{file}"})
            self._group = group
            # These came while there was no command to pass them on to.
            for number in self._waiting:
                group.signal(number)
            try:
                return self._watch(group, file)
            finally:
                self._group = None

    def _watch(self, group: _Group, file: int) -> int | None:
        touched = os.fstat(file).st_mtime_ns
        grace = min(_GRACE_SECONDS, self._lock.terms.stale_after / 5)
        while not group.is_done():
            moved = group.relay(_TICK_SECONDS)
            if (now := os.fstat(file).st_mtime_ns) != touched:
                touched, moved = now, moved + 1
            self._advance(moved)
            if self._lock.seconds_left <= grace and self._lock.store_answers:
                log.warning("the command made no progress for nearly %g s; ending it", self._lock.terms.stale_after)
                group.end(grace / 2)
                return None
        return group.code()

    def _advance(self, moved: int) -> None:
        """Count progress, and report it to the lock now and then. Raises `LockLostError`."""
        self._progress += moved
        self._lock.heartbeat(self._progress)

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        """Pass signals on to the command in the block; signals that were ignored before stay ignored."""
        before = {number: signal.getsignal(number) for number in _PASSED_ON}
        heard = [number for number, handling in before.items() if handling is not signal.SIG_IGN]
        try:
            for number in heard:
                signal.signal(number, self._pass_on)
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number])

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._is_asked_to_end = self._is_asked_to_end or number in _ENDING
        if self._group is None:
            self._waiting.append(number)
        else:
            self._group.signal(number)


class _Group:
    """The process group of one run of the command, and its guardian, inside ``with``; none of it stays."""

    def __enter__(self) -> Self:
        read_end, self._lifeline = os.pipe2(os.O_CLOEXEC)
        with shortage.translate("prepare", starting=True):
            self._id = os.fork()
        if not self._id:
            _guard(read_end, self._lifeline)
        os.close(read_end)
        # The guardian does so as well, so that neither has to wait for the other.
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(self._id, self._id)
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: dict[int, int] = {}
        return self

    def __exit__(self, *failed: object) -> None:
        if any(failed):
            self.end(_GRACE_SECONDS)
        elif not self._is_alone():
            log.warning("processes that the command left behind go on without the lock")
        for stream in tuple(self._streams):
            self._close(stream)
        # The byte lets the guardian end in peace; without it, it kills the group.
        with suppress(BrokenPipeError):
            os.write(self._lifeline, b"!")
        os.close(self._lifeline)
        os.waitpid(self._id, 0)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command. Raises `ConfigError`."""
        try:
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **environment},
                process_group=self._id,
            )
        except OSError as error:
            if (short := shortage.find(error, starting=True)) is not None:
                raise shortage.as_error(short, "prepare") from error
            raise ConfigError(f"cannot start {command[0]}: {error.strerror}", hint="check its path") from error
        for pipe, ours in ((self._process.stdout, 1), (self._process.stderr, 2)):
            assert pipe is not None  # noqa: S101 -- asked for above
            self._streams[pipe.fileno()] = ours

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; the guardian ignores what it can."""
        with suppress(ProcessLookupError):
            os.killpg(self._id, number)

    def is_done(self) -> bool:
        """Return whether the command has ended; if so, its remaining output is read for a moment first."""
        if self._process is None or self._process.poll() is None:
            return False
        deadline = time.monotonic() + _REST_SECONDS
        while self._streams and time.monotonic() < deadline:
            self.relay(_REST_SECONDS / 10)
        return True

    def code(self) -> int:
        """Return the exit code as a shell shows it."""
        assert self._process is not None  # noqa: S101 -- it is done
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def relay(self, seconds: float) -> int:
        """Pass output on for at most `seconds`. Return how many bytes moved."""
        poll = select.poll()
        for stream in self._streams:
            poll.register(stream, select.POLLIN)
        ready = poll.poll(round(seconds * 1000)) if self._streams else self._pause(seconds)
        return sum(self._pass(stream) for stream, _ in ready)

    def end(self, grace: float) -> None:
        """End the group: SIGTERM, and SIGKILL for what is there after `grace` seconds."""
        self.signal(signal.SIGTERM)
        # A stopped process acts on SIGTERM only after it goes on.
        self.signal(signal.SIGCONT)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not self._is_alone():
            self.relay(_TICK_SECONDS / 10)
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _pause(self, seconds: float) -> list[tuple[int, int]]:
        """Wait for `seconds`, but no longer than the command runs: no stream is left to read."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        return []

    def _is_alone(self) -> bool:
        """Return whether nothing but the guardian is left in the group."""
        if self._process is not None and self._process.poll() is None:
            return False
        return not any(_group_of(each) == self._id for each in _processes() if each != self._id)

    def _pass(self, stream: int) -> int:
        data = os.read(stream, _CHUNK)
        try:
            _write_whole(self._streams[stream], data)
        # The reader of our output has gone: the command learns it by its own next write.
        except OSError:
            data = b""
        if not data:
            self._close(stream)
        return len(data)

    def _close(self, stream: int) -> None:
        assert self._process is not None  # noqa: S101 -- it has streams
        del self._streams[stream]
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None and not pipe.closed and pipe.fileno() == stream:
                pipe.close()


def _write_whole(descriptor: int, data: bytes) -> None:
    """Write all of `data`, also where the descriptor is non-blocking. Raises OSError."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _guard(read_end: int, lifeline: int) -> NoReturn:
    """Lead the group, and end it once the process that holds the other end of the pipe is gone."""
    try:
        os.setpgid(0, 0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            # The C library keeps some signals for itself.
            with suppress(OSError):
                signal.signal(number, signal.SIG_IGN)
        os.close(lifeline)
        # The guardian must not keep our streams open: a reader of them waits for their end.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        if not os.read(read_end, 1):
            os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(0)


@contextmanager
def _open_heartbeat_file() -> Iterator[int]:
    """Yield the descriptor of the file whose touch is progress."""
    # In memory, so that a killed run leaves nothing behind.
    descriptor = memory_file(name="safecopy heartbeat")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _processes() -> Iterator[int]:
    return (int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal())


def _group_of(pid: int) -> int | None:
    """Return the process group of a process that runs; None if it has ended, or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[2])

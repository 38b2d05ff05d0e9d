"""Processes, named by pid, start time and boot, never by pid alone: find out whether one is gone, and end it.

Linux: read from /proc. Elsewhere nothing can be known of a process, and so nothing is claimed.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from airflow_provider_safecopy.errors import LockStoreError


def is_own_process(pid: int) -> bool:
    """Return whether `pid` is this process, and not its parent."""
    return os.getpid() == pid


def require_own_process(pid: int, store: object) -> None:
    """Raise `LockStoreError` in a forked child of `pid`, before it touches the store at `store`."""
    if not is_own_process(pid):
        raise LockStoreError(
            f"{store}: this store and its locks belong to the parent process",
            hint="make a new store and a new contender in the forked child",
            retryable=False,
        )


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GRACE_SECONDS = 5.0


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "host": lambda value: isinstance(value, str),
    "pid": lambda value: _is_number(value) and 0 < value < 1 << 31,
    "boot_id": lambda value: value is None or isinstance(value, str),
    "namespace": lambda value: value is None or _is_number(value),
    "started": lambda value: value is None or _is_number(value),
    "may_end": lambda value: isinstance(value, bool),
}


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, named so that no other is meant, not even after a reboot or in another container.

    `started` is in clock ticks since boot, `namespace` the inode of the pid namespace. `may_end`: a run that takes the
    lock over may end the process too, because it does nothing else.
    """

    host: str
    pid: int
    boot_id: str | None = None
    namespace: int | None = None
    started: int | None = None
    may_end: bool = False

    @classmethod
    def read_current(cls, *, may_end: bool = False) -> ProcessIdentity:
        """Return the identity of this process."""
        pid = os.getpid()
        boot_id, namespace = _read_boot_and_namespace()
        return cls(socket.gethostname(), pid, boot_id, namespace, _read_start_time(pid), may_end)

    @classmethod
    def from_dict(cls, data: object) -> ProcessIdentity | None:
        """Return the identity that `as_dict` of this or a later version has made; None for anything else."""
        if not isinstance(data, Mapping):
            return None
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        of_their_kind = all(_CHECKS[name](value) for name, value in known.items())
        return cls(**known) if of_their_kind and {"host", "pid"} <= known.keys() else None

    def as_dict(self) -> dict[str, Any]:
        """Return the identity as plain JSON values."""
        return asdict(self)

    @property
    def is_gone(self) -> bool:
        """True if the process has ended for certain. False where that cannot be known: elsewhere, or another boot."""
        return self._is_known() and _read_start_time(self.pid) != self.started and not _is_hidden(self.pid)

    @property
    def is_local(self) -> bool:
        """True if the process is, or was, of this boot and pid namespace, and so visible to this one."""
        return self._is_known()

    def end(self) -> bool:
        """End the process: SIGTERM, then SIGKILL. Return False if it is unknown, not ours, or may not be ended.

        Call it only for a place from a presence note: a place from a lock's row may name any process.
        """
        if not self.may_end or not self._is_known() or self.is_gone or self.pid == os.getpid():
            return False
        with _open_handle(self.pid) as send:
            return self._send_signals(send)

    def _send_signals(self, send: Callable[[signal.Signals], None]) -> bool:
        try:
            for number, grace in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
                if _read_start_time(self.pid) != self.started:
                    break
                send(number)
                # A stopped process does not act on SIGTERM, so it is not given time to.
                if self._wait_until_gone(0.2 if _is_stopped(self.pid) else grace):
                    return True
        except (ProcessLookupError, PermissionError):
            pass
        return self.is_gone

    def _wait_until_gone(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.is_gone and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.is_gone

    def _is_known(self) -> bool:
        # In another boot or pid namespace, the same pid is another process.
        known = self.boot_id is not None and self.namespace is not None and self.started is not None
        return known and (self.boot_id, self.namespace) == _read_boot_and_namespace()


@contextmanager
def _open_handle(pid: int) -> Iterator[Callable[[signal.Signals], None]]:
    """Yield a function that sends a signal to that process. With a pidfd, it can reach no other.

    A Python built against old headers has no such call, and a sandbox may forbid it: then the pid is used, and its start
    time is compared just before each signal.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield lambda number: os.kill(pid, number)
        return

    def send(number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            raise
        except (AttributeError, OSError):
            os.kill(pid, number)

    try:
        yield send
    finally:
        os.close(descriptor)


def _read_boot_and_namespace() -> tuple[str | None, int | None]:
    return _read_boot_id(), _read_namespace()


@cache
def _read_boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _read_namespace() -> int | None:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None


def _read_start_time(pid: int) -> int | None:
    """Return the start time of the process, in ticks since boot; None without one, or for a zombie."""
    fields = _read_stat(pid)
    # A zombie has ended; only its parent has not noticed it yet.
    return None if not fields or fields[0] in (b"Z", b"X") else int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Return whether the process is there although /proc hides it, as it does if mounted with hidepid."""
    if _read_stat(pid):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_stopped(pid: int) -> bool:
    fields = _read_stat(pid)
    return bool(fields) and fields[0] in (b"T", b"t")


def _read_stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/<pid>/stat from the state on, as in proc(5)."""
    # The program's name comes before them, and may hold blanks and brackets.
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []

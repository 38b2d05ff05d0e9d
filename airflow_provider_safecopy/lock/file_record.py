"""The files of one lock: its state, its history, a guard for its writers, and its holders' flocks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shlex
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.file_state import EVENT_FACTS, LockState, require_facts
from airflow_provider_safecopy.lock.flock import Flock
from airflow_provider_safecopy.lock.model import Event

_ACCESS_HINT = "let this user read and write there, or name a directory of its own"
_SPACE_HINT = "make room on that disk"
_DIRECTORY_HINT = "name a directory, not a file"
_HINTS = {
    errno.ENOENT: "make the directory it is to lie in",
    errno.ENOTDIR: _DIRECTORY_HINT,
    errno.EEXIST: _DIRECTORY_HINT,
    errno.EACCES: _ACCESS_HINT,
    errno.EPERM: _ACCESS_HINT,
    errno.EROFS: "name a directory that can be written to",
    errno.ENOSPC: _SPACE_HINT,
    errno.EDQUOT: _SPACE_HINT,
}
MAX_BYTES = 1 << 20
"""About 3,000 events; when there are more, the older half goes."""

_TEMPORARY_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file, so that a crash or a power failure leaves the old one or the new one.

    For one writer at a time: it overwrites what an earlier one has half written beside the file.
    """
    beside = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    # The new name, too, must reach the disk: until then a power failure brings back the old file.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def require_private_directory(directory: Path) -> None:
    """Raise `LockStoreError` if another user could write a record; OSError if there is no directory.

    A record says who holds a lock and when it last gave a sign of life: only this user's processes may write it.
    """
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    if found.st_uid != os.geteuid():
        raise LockStoreError(
            f"{directory}: it belongs to user {found.st_uid}, but this process runs as user {os.geteuid()}: its locks "
            "cannot be trusted",
            hint="use a directory of this user, or run all processes that share it as one user",
            retryable=False,
        )
    if found.st_mode & 0o022:
        raise LockStoreError(
            f"{directory}: other users may write to it: its locks cannot be trusted",
            hint=f"chmod go-w {shlex.quote(str(directory))}, and remove the files of other users in it",
            retryable=False,
        )


def read_own_file(path: Path) -> bytes:
    """Return the content of a file of this user. Raises OSError, PermissionError for another user's file."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
        return file.read()


@contextmanager
def translate_errors(directory: Path) -> Iterator[None]:
    """Raise `LockStoreError` for errors of the system, and if others may write to `directory`."""
    try:
        with suppress(FileNotFoundError):
            require_private_directory(directory)
        yield
    except OSError as error:
        raise LockStoreError(
            f"{directory}: the locks in it cannot be asked: {error}",
            hint=_HINTS.get(error.errno or 0, ""),
            retryable=error.errno in _TEMPORARY_ERRNOS,
        ) from error


@dataclass(frozen=True)
class FileHistory:
    """The history of a lock, in the file at `path`. Only one process writes at a time. Raises OSError.

    It is for people: the last line of a process that was killed may be missing or torn, and is then left out.
    """

    path: Path

    def append(self, event: Event) -> None:
        """Append one event."""
        line = _format_event(event)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            # A writer that was killed has left half a line, which would spoil this one.
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" + line if torn else line)
        if size > MAX_BYTES:
            events = self.read_events()
            self._rewrite(events[len(events) // 2 :])

    def read_events(self) -> list[Event]:
        """Return all events, the oldest first."""
        try:
            lines = read_own_file(self.path).splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := _parse_event(line)) is not None]

    def drop_older(self, oldest: datetime) -> int:
        """Remove events older than `oldest`. Return how many there were."""
        events = self.read_events()
        kept = [event for event in events if event.at >= oldest]
        if len(kept) < len(events):
            self._rewrite(kept)
        return len(events) - len(kept)

    def _rewrite(self, events: list[Event]) -> None:
        replace_file(self.path, b"".join(map(_format_event, events)))


def _format_event(event: Event) -> bytes:
    data: dict[str, Any] = asdict(event) | {"at": event.at.isoformat()}
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _parse_event(line: bytes) -> Event | None:
    try:
        data = json.loads(line.decode("utf-8", "surrogatepass"))
        require_facts(data, EVENT_FACTS)
        return Event(**data | {"at": datetime.fromisoformat(data["at"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


_GUARD_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.002
_STATE_SUFFIX = ".state"


@dataclass(frozen=True)
class FileRecord:
    """The files of one lock in `directory`, all of their names beginning with `stem`. Raises OSError.

    Only `read_state` and the reading of `history` may be done outside `hold_guard`.
    """

    directory: Path
    stem: str

    @classmethod
    def for_lock(cls, directory: Path, name: str) -> Self:
        """Return the files of the lock `name`, which may be any text; a person can tell it from their names."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        readable = re.sub(r"[^\w.]+", "_", name[:40]).strip("._") or "lock"
        # In UTF-8 whatever the locale: a run in another one must find the same files.
        return cls(directory, os.fsdecode(f"{readable}-{digest}".encode()))

    @classmethod
    def find_all(cls, directory: Path) -> list[Self]:
        """Return the files of every lock that was ever granted; none where there is no directory yet."""
        try:
            names = os.listdir(directory)  # noqa: PTH208 -- globbing takes what may not be read for empty
        except FileNotFoundError:
            return []
        return [
            cls(directory, name.removesuffix(_STATE_SUFFIX)) for name in sorted(names) if name.endswith(_STATE_SUFFIX)
        ]

    @property
    def history(self) -> FileHistory:
        """The history of the lock."""
        return FileHistory(self._file_path("history"))

    @contextmanager
    def hold_guard(self) -> Iterator[None]:
        """Hold the lock's files alone in the block. Raises `LockStoreError` if another process does so for long."""
        with self._take_guard():
            yield

    def read_state(self) -> LockState | None:
        """Return the state that was written last; None before the first grant.

        Raises `LockStoreError` if it cannot be read.
        """
        path = self._file_path("state")
        try:
            return self._require_own_state(LockState.from_json(read_own_file(path)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise LockStoreError(
                f"{path}: this is no state of a lock that this version can read: {error!r}",
                hint="restore the file; only when the lock is free, remove it: its tokens then begin again at 1",
                retryable=False,
            ) from error

    def _require_own_state(self, state: LockState) -> LockState:
        if FileRecord.for_lock(self.directory, state.name).stem != self.stem:
            raise ValueError(f"it is that of the lock {state.name!r}")
        return state

    def write_state(self, state: LockState) -> None:
        """Replace the state."""
        replace_file(self._file_path("state"), state.as_json())

    def hold_flock(self, attempt: str) -> Flock | None:
        """Return the open flock that shows the attempt to be alive; None if another one shows it already."""
        life = Flock(self._flock_path(attempt))
        if life.try_lock():
            return life
        life.close()
        return None

    def is_held(self, attempt: str) -> bool:
        """Return whether a process holds the attempt's flock."""
        try:
            with Flock(self._flock_path(attempt), create=False) as life:
                return not life.try_lock()
        except FileNotFoundError:
            return False

    def remove_flocks(self, attempts: Iterable[str]) -> None:
        """Remove the flock files of these attempts."""
        for attempt in attempts:
            self._flock_path(attempt).unlink(missing_ok=True)

    def list_attempts(self) -> set[str]:
        """Return the attempts that have a flock file, held or left behind."""
        return {path.suffixes[-2][1:] for path in self.directory.glob(f"{self.stem}.*.life")}

    def remove(self) -> None:
        """Remove all files of the lock, and the directory if it is then empty. Call it inside `hold_guard`."""
        self.remove_flocks(self.list_attempts())
        for kind in ("state", "history", "guard"):
            self._file_path(kind).unlink(missing_ok=True)
        # The directory may hold other locks.
        with suppress(OSError):
            self.directory.rmdir()

    def _make_directory(self) -> None:
        """Make the directory, for this user alone, unless it is there. Raises `LockStoreError` if it is not private."""
        with suppress(FileExistsError):
            self.directory.mkdir(mode=0o700)
        require_private_directory(self.directory)

    def _take_guard(self) -> Flock:
        """Return the guard, locked. One that was removed meanwhile guards nothing, so a new one is made."""
        path, deadline = self._file_path("guard"), time.monotonic() + _GUARD_WAIT_SECONDS
        while time.monotonic() <= deadline:
            try:
                self._make_directory()
                guard = Flock(path)
            # A holder that leaves nothing behind has removed the directory just now.
            except FileNotFoundError:
                if not self.directory.parent.is_dir():
                    raise
                continue
            if guard.try_lock() and guard.is_at(path):
                return guard
            guard.close()
            # The system's own wait for a flock has no deadline.
            time.sleep(_POLL_SECONDS)
        raise LockStoreError(
            f"{path}: another process has been changing this lock for {_GUARD_WAIT_SECONDS:g} s",
            hint="it may be stopped: see who has the file open, and continue or end it",
        )

    def _file_path(self, kind: str) -> Path:
        return self.directory / f"{self.stem}.{kind}"

    def _flock_path(self, attempt: str) -> Path:
        return self._file_path(f"{attempt}.life")

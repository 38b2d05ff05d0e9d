"""What a file store keeps of one lock: its state, its history, a guard for whoever changes it, and its holders' lives."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import disk
from airflow_provider_safecopy.lock.file_history import FileHistory
from airflow_provider_safecopy.lock.file_state import LockState
from airflow_provider_safecopy.lock.flock import Flock

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
        """Any text is a name; the files' says enough of it for a person."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        readable = re.sub(r"[^\w.]+", "_", name[:40]).strip("._") or "lock"
        # In UTF-8 whatever the locale: a run in another one must find the same files.
        return cls(directory, os.fsdecode(f"{readable}-{digest}".encode()))

    @classmethod
    def find_all(cls, directory: Path) -> list[Self]:
        """Of every lock there has ever been; none where there is no directory yet."""
        try:
            names = os.listdir(directory)  # noqa: PTH208 -- globbing takes what may not be read for empty
        except FileNotFoundError:
            return []
        return [
            cls(directory, name.removesuffix(_STATE_SUFFIX)) for name in sorted(names) if name.endswith(_STATE_SUFFIX)
        ]

    @property
    def history(self) -> FileHistory:
        """What happened to it."""
        return FileHistory(self._file_path("history"))

    @contextmanager
    def hold_guard(self) -> Iterator[None]:
        """Alone with the lock's files. Raises `LockStoreError` when somebody else does not let go of them."""
        with self._take_guard():
            yield

    def read_state(self) -> LockState | None:
        """As it was written last; None before the first grant. Raises `LockStoreError` when it cannot be read."""
        path = self._file_path("state")
        try:
            return self._require_own_state(LockState.from_json(disk.read_own_file(path)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise LockStoreError(
                f"{path}: this is no state of a lock that this version can read: {error!r}",
                hint="restore the file; only when nobody holds the lock, remove it: its tokens then begin again at 1",
                retryable=False,
            ) from error

    def _require_own_state(self, state: LockState) -> LockState:
        if FileRecord.for_lock(self.directory, state.name).stem != self.stem:
            raise ValueError(f"it is that of the lock {state.name!r}")
        return state

    def write_state(self, state: LockState) -> None:
        """Replace the state."""
        disk.replace_file(self._file_path("state"), state.as_json())

    def hold_flock(self, attempt: str) -> Flock | None:
        """What says, as long as it is open, that the attempt lives; None when another one says so already."""
        life = Flock(self._flock_path(attempt))
        if life.try_lock():
            return life
        life.close()
        return None

    def is_held(self, attempt: str) -> bool:
        """Whether somebody lives who holds the attempt's flock."""
        try:
            with Flock(self._flock_path(attempt), create=False) as life:
                return not life.try_lock()
        except FileNotFoundError:
            return False

    def remove_flocks(self, attempts: Iterable[str]) -> None:
        """Remove what these attempts had to hold."""
        for attempt in attempts:
            self._flock_path(attempt).unlink(missing_ok=True)

    def list_attempts(self) -> set[str]:
        """The attempts that have something to hold, or have left it."""
        return {path.suffixes[-2][1:] for path in self.directory.glob(f"{self.stem}.*.life")}

    def remove(self) -> None:
        """Remove all files of the lock, and the directory if it is empty then. Inside `hold_guard` alone."""
        self.remove_flocks(self.list_attempts())
        for kind in ("state", "history", "guard"):
            self._file_path(kind).unlink(missing_ok=True)
        with suppress(OSError):  # other locks lie in it
            self.directory.rmdir()

    def _take_guard(self) -> Flock:
        """Return the guard, locked. One that was removed meanwhile guards nothing, so a new one is made."""
        path, deadline = self._file_path("guard"), time.monotonic() + _GUARD_WAIT_SECONDS
        while time.monotonic() <= deadline:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            try:
                guard = Flock(path)
            except FileNotFoundError:  # the directory was removed just now
                continue
            if guard.try_lock() and guard.is_at(path):
                return guard
            guard.close()
            time.sleep(_POLL_SECONDS)
        raise LockStoreError(
            f"{path}: another process has been changing this lock for {_GUARD_WAIT_SECONDS:g} s",
            hint="it may be stopped: see who has the file open, and continue or end it",
        )

    def _file_path(self, kind: str) -> Path:
        return self.directory / f"{self.stem}.{kind}"

    def _flock_path(self, attempt: str) -> Path:
        return self._file_path(f"{attempt}.life")

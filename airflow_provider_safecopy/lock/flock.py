"""A flock that stands for this very process: while it is held, the process lives.

The kernel gives it to every process that has the open file, and so to forked children too: they close their copy at
once. Programs that are started never get one.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from pathlib import Path
from typing import Self

# Held while a descriptor is opened or closed, and while the process is forked: no child has one that is not listed.
_registry_lock = threading.RLock()
_open_flocks: weakref.WeakSet[Flock] = weakref.WeakSet()


class Flock:
    """The open file at `path`, locked once `try_lock` has returned True.

    Only `close`, or the end of the process, unlocks it. Raises OSError; without `create`, FileNotFoundError for a
    missing file.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        self._descriptor: int | None = None
        with _registry_lock:
            self._descriptor = os.open(path, flags, 0o600)
            _open_flocks.add(self)

    def try_lock(self) -> bool:
        """Lock the file unless another process has; return whether it is locked."""
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_at(self, path: Path) -> bool:
        """Return whether `path` still names the open file: another process may have removed it meanwhile."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.lstat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Unlock and close the file. A second call does no harm."""
        with _registry_lock:
            _open_flocks.discard(self)
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close_inherited() -> None:
    # Closing a copy leaves the parent's locked; unlocking it would not.
    for each in tuple(_open_flocks):
        each.close()
    _registry_lock.release()


os.register_at_fork(
    before=_registry_lock.acquire, after_in_parent=_registry_lock.release, after_in_child=_close_inherited
)

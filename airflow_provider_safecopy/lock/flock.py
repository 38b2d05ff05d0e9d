"""A flock that stands for this very process: while it is held, the process lives.

The kernel gives it to whoever has the open file, hence to forked children too, for as long as they like; so they let
go of their copy at once. Programs that are started never get one.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from pathlib import Path
from typing import Self

# Held while a descriptor is opened or closed, and while the process is forked: no child has one that is not listed.
_listing = threading.RLock()
_listed: weakref.WeakSet[Flock] = weakref.WeakSet()


class Flock:
    """The file at `path`, open, and locked once `take` has said so. Only `close`, or the end of the process, unlocks it.

    Raises OSError; FileNotFoundError where there is none and it is not to be made.
    """

    def __init__(self, path: Path, *, make: bool = True) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
        self._descriptor: int | None = None
        with _listing:
            self._descriptor = os.open(path, flags, 0o600)
            _listed.add(self)

    def take(self) -> bool:
        """Lock it, unless somebody else has."""
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_at(self, path: Path) -> bool:
        """Whether `path` still names the open file: another process may have removed it meanwhile."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.lstat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Unlock it. Twice is harmless."""
        with _listing:
            _listed.discard(self)
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_child() -> None:
    # Closing a copy leaves the parent's locked; unlocking it would not.
    for each in tuple(_listed):
        each.close()
    _listing.release()


os.register_at_fork(before=_listing.acquire, after_in_parent=_listing.release, after_in_child=_in_child)

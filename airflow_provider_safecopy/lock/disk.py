"""What a file store asks of the file system: files that are written whole or not at all, and errors that say what next."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_provider_safecopy.errors import LockStoreError

_OWN = "let this user read and write there, or name a directory of its own"
_ROOM = "make room on that disk"
_FILE = "name a directory, not a file"
_HINTS = {
    errno.ENOENT: "make the directory it is to lie in",
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.EACCES: _OWN,
    errno.EPERM: _OWN,
    errno.EROFS: "name a directory that can be written to",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
}
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def write(path: Path, content: bytes) -> None:
    """Replace a file, for good: whenever the process is killed or the power fails, it is the old one or the new one.

    For one writer at a time: what an earlier one has half written beside it is written over.
    """
    beside = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def telling(directory: Path) -> Iterator[None]:
    """The system's errors, told as those of the store in `directory`."""
    try:
        yield
    except OSError as error:
        raise LockStoreError(
            f"{directory}: the locks in it cannot be asked: {error}",
            hint=_HINTS.get(error.errno or 0, ""),
            retryable=error.errno in _PASSING,
        ) from error

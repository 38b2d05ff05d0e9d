"""What a file store asks of the file system: files that are written whole or not at all, and errors that say what next."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from airflow_provider_safecopy.errors import LockStoreError

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
_TEMPORARY_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def replace_file(path: Path, content: bytes) -> None:
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
    """Translate errors of the system into `LockStoreError`; raise it too if others may write to `directory`."""
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

"""Memory files, for what must never lie on a disk: passwords, and scripts for psql.

They come from memfd_create where possible. A Python built against old headers lacks it although the C library has it, and
a sandbox may forbid it: then an unnamed file in a tmpfs serves as well. Nothing else does.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from airflow_provider_safecopy.errors import ConfigError

_LIBC = ctypes.CDLL(None, use_errno=True)
_MFD_CLOEXEC = 1
# Linux, of all machines that Python runs on; not every Python knows it.
_O_TMPFILE = 0o20200000
_MOUNTS = Path("/proc/self/mountinfo")
_KEPT_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def memory_file(content: bytes = b"", name: str = "safecopy") -> int:
    """Return the descriptor of a memory file, at its start. The caller closes it. Raises `ConfigError`."""
    descriptor = _open(name)
    try:
        # Libpq ignores a password file that others may read.
        os.fchmod(descriptor, 0o600)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def require() -> None:
    """Raise `ConfigError` if no memory file can be made."""
    os.close(_open())


def _open(name: str = "safecopy") -> int:
    ways = [(_open_by_python, name), (_open_by_library, name), *((_open_unnamed, path) for path in _directories())]
    for made, of in ways:
        try:
            return made(of)
        except (AttributeError, OSError):
            continue
    raise ConfigError(
        "no memory file can be made on this machine, neither by memfd_create nor in /dev/shm; a password would have to lie on a disk",
        hint="allow memfd_create in the seccomp profile of this process, or mount a tmpfs on /dev/shm that its "
        "user may write to",
    )


def _open_by_python(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC)


def _open_by_library(name: str) -> int:
    descriptor: int = _LIBC.memfd_create(name.encode(), _MFD_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "memfd_create")
    return descriptor


def _directories() -> tuple[str, ...]:
    return ("/dev/shm", f"/run/user/{os.geteuid()}", "/run", "/tmp")  # noqa: S108 -- used only without a name, in memory


def _open_unnamed(directory: str) -> int:
    # With O_EXCL the file can never be given a name.
    descriptor = os.open(directory, os.O_RDWR | _O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if not _is_in_memory(descriptor):
        os.close(descriptor)
        raise OSError(f"{directory} is on a disk")
    return descriptor


def _is_in_memory(descriptor: int) -> bool:
    """Return whether the descriptor's file system is kept in memory; False if that is unknown."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = [line.split() for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    kinds = {line[line.index("-") + 1] for line in lines if line[2] == number and "-" in line}
    return bool(kinds) and kinds <= _KEPT_IN_MEMORY

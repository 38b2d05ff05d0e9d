"""Hostile places to run a command in: ``python hostile.py PLACE [ARGUMENT] -- COMMAND …`` goes there and becomes it.

A process that has forked nothing and imported nothing of ours enters the place and then executes the command: limits,
filters of system calls, ignored signals, namespaces and closed descriptors all survive that. It needs no privilege: what
takes one is done in a user namespace, whose rights are gone once the command is executed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

STRANGER = 54321
"""A user id that has no passwd entry."""

PIPE_BYTES = 64 * 1024
"""How much a pipe takes before it is full."""

_LOOKS, _LOOK_SECONDS = 3000, 0.02
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 0x40000
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _FIRST_ARGUMENT_AT = 0, 16
_CLONE_THREAD = 0x00010000
# Of x86-64 and of all newer machines: system calls of 2019 and later have one number everywhere.
_X86 = {"memfd_create": 319, "clone": 56, "fork": 57, "vfork": 58}
_OTHER = {"memfd_create": 279, "clone": 220}
_NEW = {"pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435, "mount_setattr": 442}


def numbers() -> Mapping[str, int]:
    """Return the numbers of the system calls in question on this machine."""
    return (_X86 if platform.machine() == "x86_64" else _OTHER) | _NEW


def forbid(code: int, *calls: str) -> None:
    """Make the system calls fail with the error `code`, in this process and all that it starts."""
    known = [numbers()[call] for call in calls if call in numbers()]
    tests = [(_JUMP_EQUAL, len(known) - at, 0, number) for at, number in enumerate(known)]
    _filter([(_LOAD, 0, 0, _NUMBER_AT), *tests, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | code)])


def forbid_threads(*, alone: bool) -> None:
    """Make new threads, and unless `alone` new processes too, fail as they do where pids.max is reached."""
    forbid(errno.ENOSYS, "clone3")  # whose flags a filter cannot see; the C library then calls clone
    if not alone:
        forbid(errno.EAGAIN, "clone", "fork", "vfork")
        return
    _filter(
        [
            (_LOAD, 0, 0, _NUMBER_AT),
            (_JUMP_EQUAL, 0, 2, numbers()["clone"]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
            (_JUMP_SET, 1, 0, _CLONE_THREAD),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERRNO | errno.EAGAIN),
        ]
    )


def become_stranger(*, mounts: bool = False) -> None:
    """Become a user of whom the system knows no name, with the rights of the one who was."""
    user, group = os.geteuid(), os.getegid()
    _check(_LIBC.unshare(_CLONE_NEWUSER | (_CLONE_NEWNS if mounts else 0)))
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{STRANGER} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{STRANGER} {group} 1", encoding="ascii")
    if mounts:
        _check(_LIBC.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))


def make_read_only() -> None:
    """Make everything read-only, devices and memory file systems included."""
    become_stranger(mounts=True)
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    call = numbers()["mount_setattr"]
    _check(_LIBC.syscall(call, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes)))


def make_read_only_but(directory: str) -> None:
    """Make everything read-only, and mount a volume on `directory`."""
    make_read_only()
    _mount(directory, "mode=777")
    os.environ.pop("TMPDIR", None)


def mount_small(directory: str, *, options: str, fill: bool) -> None:
    """Mount a small file system on `directory`, and fill it up if asked to."""
    become_stranger(mounts=True)
    _mount(directory, options)
    if fill:
        with suppress(OSError), (Path(directory) / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))


def _mount(directory: str, options: str) -> None:
    _check(_LIBC.mount(b"small", directory.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode()))


def wait_until_full(pipe: int) -> None:
    """Wait until the pipe behind this read end is full, without reading from it."""
    filled = ctypes.c_int()
    for _ in range(_LOOKS):
        fcntl.ioctl(pipe, termios.FIONREAD, filled)
        if filled.value >= PIPE_BYTES - 4096:
            return
        time.sleep(_LOOK_SECONDS)
    raise TimeoutError("the pipe did not fill up")


def lose_everything() -> None:
    """Become a user of whom neither the system nor the environment knows anything."""
    become_stranger()
    for name in ("HOME", "TMPDIR", "USER", "LOGNAME"):
        os.environ.pop(name, None)


def lose_memory() -> None:
    """Leave no way to make a file in memory."""
    make_read_only()
    forbid(errno.EPERM, "memfd_create")


def close(*descriptors: int) -> None:
    """Close descriptors."""
    for each in descriptors:
        os.close(each)


PLACES: Mapping[str, Callable[[str], object]] = {
    "usual": lambda _: None,
    "stranger": lambda _: lose_everything(),
    "read-only": lambda _: make_read_only(),
    "read-only but a volume": make_read_only_but,
    "full": lambda where: mount_small(where, options="size=64k,mode=777", fill=True),
    "narrow": lambda where: mount_small(where, options="size=4m,mode=777", fill=False),
    "no inodes": lambda where: mount_small(where, options="nr_inodes=1,mode=777", fill=False),
    "no memfd": lambda _: forbid(errno.ENOSYS, "memfd_create"),
    "memfd forbidden": lambda _: forbid(errno.EPERM, "memfd_create"),
    "no memory": lambda _: lose_memory(),
    "no pidfd": lambda _: forbid(errno.ENOSYS, "pidfd_open", "pidfd_send_signal"),
    "pidfd forbidden": lambda _: forbid(errno.EPERM, "pidfd_open", "pidfd_send_signal"),
    "no threads": lambda _: forbid_threads(alone=True),
    "no processes": lambda _: forbid_threads(alone=False),
    "descriptors": lambda most: resource.setrlimit(resource.RLIMIT_NOFILE, (int(most), int(most))),
    "closed": lambda which: close(*map(int, which)),
    "non-blocking": lambda _: os.set_blocking(1, False),
    "SIGCHLD ignored": lambda _: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
}
"""Each is entered with the argument after its name, which most ignore."""


def _filter(lines: list[tuple[int, int, int, int]]) -> None:
    program = b"".join(struct.pack("HBBI", *line) for line in lines)
    code = ctypes.create_string_buffer(program)
    described = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0))


def _check(answer: int) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """Enter the place, and become the command."""
    place, argument, dashes, *command = sys.argv[1:]
    if dashes != "--":
        sys.exit("PLACE ARGUMENT -- COMMAND")
    PLACES[place](argument)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

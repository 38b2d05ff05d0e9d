"""Shortages of this machine: which limit was reached, and what to do about it.

A process may have only so many files open, and a container only so many processes and threads. A failure for that
reason is no mistake of the copy: it may succeed when run again, and its error names the limit.
"""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from airflow_provider_safecopy.errors import Refusal, StageError

# The files and threads that a copy needs: once, and for each of its streams. A test counts them.
_DESCRIPTORS, _DESCRIPTORS_OF_LANE, _DESCRIPTORS_OF_SWITCH = 10, 7, 2
_TASKS, _TASKS_OF_LANE = 1, 2
_FEW = 3
# Python's own words, since that error has no number.
_NO_THREAD = "can't start new thread"
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def as_error(short: Refusal, stage: str) -> StageError:
    """Return a shortage as the error of the stage that met it."""
    return StageError(short.message, stage=stage, hint=short.hint, retryable=True)


def find(error: BaseException, *, starting: bool = False) -> Refusal | None:
    """Return the shortage that `error` is about, if any. `starting`: it was raised by starting a process."""
    if isinstance(error, MemoryError):
        return _describe(errno.ENOMEM)
    if isinstance(error, RuntimeError):
        return _describe(errno.EAGAIN) if _NO_THREAD in str(error) else None
    if not isinstance(error, OSError) or error.errno is None:
        return None
    # Otherwise EAGAIN says that a descriptor is not ready.
    return None if error.errno == errno.EAGAIN and not starting else _describe(error.errno)


def look() -> Refusal | None:
    """Return the shortage of descriptors that there is now, if any."""
    # For an error that does not give its reason.
    try:
        _open(_FEW)
    except OSError as error:
        return find(error)
    return None


def find_in(text: str) -> Refusal | None:
    """Return the shortage that a library's message names in the system's words."""
    return next((_describe(code) for code in (errno.EMFILE, errno.ENFILE) if os.strerror(code) in text), None)


@contextmanager
def translate(stage: str, *, starting: bool = False) -> Iterator[None]:
    """Raise a retryable `StageError` for what fails in the block because of a shortage."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        found = find(error, starting=starting)
        if found is None:
            raise
        raise as_error(found, stage) from error


def check(*, lanes: int | str = 1, switch: bool = True) -> tuple[Refusal, ...]:
    """Return why a copy with so many `lanes` (streams) cannot open or start all that it needs.

    Nothing stays open or running. Ask before anything is opened for the copy; without `switch`, its abort switch is
    there already. A word for `lanes` leaves their number to the copy, which needs no more than one.
    """
    lanes = lanes if isinstance(lanes, int) else 1
    try:
        _open(_DESCRIPTORS + lanes * _DESCRIPTORS_OF_LANE + switch * _DESCRIPTORS_OF_SWITCH)
        _start(_TASKS + lanes * _TASKS_OF_LANE)
    except (OSError, RuntimeError, MemoryError) as error:
        found = find(error)
        if found is None:
            raise
        return (found,)
    return ()


def _open(count: int) -> None:
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _start(count: int) -> None:
    """Start so many threads, and end them."""
    # A limit on processes counts threads too, and a thread costs less to try.
    done, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(count):
            thread = threading.Thread(target=done.wait, name="safecopy probe", daemon=True)
            thread.start()
            started.append(thread)
    finally:
        done.set()
        for thread in started:
            thread.join()


def _describe(code: int) -> Refusal | None:
    if code == errno.EMFILE:
        return Refusal(
            "open_files",
            f"this process may have no more than {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files open "
            "(RLIMIT_NOFILE), and a copy needs more",
            hint="raise that limit (ulimit -n, LimitNOFILE=), or run less in this process, and run it again",
        )
    if code == errno.ENFILE:
        return Refusal(
            "open_files",
            "this machine has no file handle left (fs.file-max)",
            hint="raise that limit, or run less on this machine, and run it again",
        )
    if code == errno.EAGAIN:
        return Refusal(
            "processes",
            f"no more processes and threads may be started here, and a copy needs more ({_task_limits()})",
            hint="raise that limit (pids limit of the container, TasksMax=, ulimit -u), or run less there, and run it again",
        )
    if code == errno.ENOMEM:
        return Refusal(
            "memory",
            "no memory is left for this process",
            hint="raise its limit (memory limit of the container, ulimit -v), or run less there, and run it again",
        )
    return None


def _task_limits() -> str:
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    named = [f"pids.max {each}" for each in _read_pids_max()]
    named += [] if limit == resource.RLIM_INFINITY else [f"RLIMIT_NPROC {limit}"]
    return ", ".join(named) or "pids.max or RLIMIT_NPROC, or a system call that is forbidden"


def _read_pids_max() -> Iterator[str]:
    """Yield the limits of this process's control groups, the innermost first; nothing where there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in {"", "pids"}:
            continue
        group = _CONTROL_GROUPS / controllers / path.lstrip("/")
        for directory in (group, *group.parents):
            if directory == _CONTROL_GROUPS.parent:
                break
            try:
                most = (directory / "pids.max").read_text(encoding="ascii").strip()
            except OSError:
                continue
            if most != "max":
                yield most

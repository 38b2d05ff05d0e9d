"""The demo's child processes: none is left when its block is, and their lines are read as they come."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import IO

_GRACE_SECONDS = 2
_OTHERS = ("AIRFLOW", "PG", "SAFECOPY_")
# Waits for this process's end (its side of the pipe closes), and ends a process group, a stopped one as well.
_GUARD = 'read -r _; kill -KILL "-$1"'


def inherited_environment() -> dict[str, str]:
    """Our own environment, without what would turn the demo towards another Airflow, or another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}


@contextmanager
def drain(output: IO[str]) -> Iterator[SimpleQueue[str | None]]:
    """The lines of `output`, read also while they are not asked for: their writer must never wait for us."""
    lines: SimpleQueue[str | None] = SimpleQueue()

    def drain() -> None:
        for line in output:
            lines.put(line)
        lines.put(None)

    thread = threading.Thread(target=drain, name="dag-log", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        thread.join()


@contextmanager
def ensure_end(process: subprocess.Popen[bytes], *, group: bool = True) -> Iterator[None]:
    """On leaving, the process has ended: by itself, or asked to, or made to, its children with it.

    The process leads a `group` of its own, which is asked as a whole; or it does not. Airflow is given
    little time: ``dags test`` takes a signal for one failed task, and goes on with the next.
    """
    try:
        yield
    finally:
        for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 10)):
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    (os.killpg if group else os.kill)(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
        if group:
            # What it started may outlive it, and would write into a directory that is being removed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def signals_held() -> Iterator[None]:
    """Inside, no signal interrupts us: one that arrives is raised on leaving.

    An exception between fork and `ensure_end` would leave a child that is never ended: it would go on, and write into
    a home that is gone. Only the main thread is ever interrupted, so only there is there anything to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda told, _: heard.append(told)) for number in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for told in heard[:1]:
            signal.raise_signal(told)


@contextmanager
def guard(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Inside, the process, the leader of a group, ends with its group when we do, even if we cannot say so."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "safecopy-guard", str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        process_group=0,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()

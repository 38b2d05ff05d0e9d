"""A flock stands for one process: not for its forked children, nor for the programs it starts."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_safecopy.lock.flock import Flock

HOLD = """
import os, signal, subprocess, sys, threading
from pathlib import Path
from airflow_provider_safecopy.lock.flock import Flock
flock = Flock(Path(sys.argv[1]))
assert flock.try_lock()
"""
FORK = f"""{HOLD}
child = os.fork()
if child == 0:
    assert not flock.try_lock()   # let go of in the child
    flock.close()             # harmless
    with Flock(Path(sys.argv[1])) as own:
        assert not own.try_lock() # and the parent's still
    print(os.getpid(), flush=True)
    signal.pause()
os.waitpid(child, os.WSTOPPED)
"""
PROGRAM = f"""{HOLD}
child = subprocess.Popen(["sleep", "100"], close_fds=False)
print(child.pid, flush=True)
signal.pause()
"""
THREAD = f"""{HOLD}
os._exit(0) if os.fork() == 0 else os.wait()
turns = [threading.Thread(target=lambda: [Flock(Path(sys.argv[1])).close() for _ in range(300)]) for _ in range(3)]
for turn in turns:
    turn.start()
for _ in range(50):
    if (child := os.fork()) == 0:
        opened = [os.readlink(f"/proc/self/fd/{{name}}") for name in os.listdir("/proc/self/fd") if name > "2"
                  and os.path.exists(f"/proc/self/fd/{{name}}")]
        os._exit(any(sys.argv[1] in each for each in opened))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for turn in turns:
    turn.join()
"""


def test_one_takes_it_at_a_time(tmp_path: Path) -> None:
    one, two = Flock(tmp_path / "a"), Flock(tmp_path / "a")
    assert [one.try_lock(), one.try_lock(), two.try_lock()] == [True, True, False]
    one.close()
    one.close()
    assert not one.try_lock()
    assert two.try_lock()
    two.close()


def test_whoever_is_forgotten_lets_go(tmp_path: Path) -> None:
    one = Flock(tmp_path / "a")
    assert one.try_lock()
    del one
    gc.collect()
    with Flock(tmp_path / "a") as two:
        assert two.try_lock()


def test_it_is_made_for_this_user_alone_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Flock(tmp_path / "a", create=False)
    with Flock(tmp_path / "a"):
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    with pytest.raises(OSError, match="symbolic"):
        Flock(tmp_path / "a")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("program", [FORK, PROGRAM], ids=["forked child", "started program"])
def test_whoever_outlives_the_holder_does_not_hold_it(tmp_path: Path, program: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", program, tmp_path / "a"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with Flock(tmp_path / "a") as other:
            assert not other.try_lock()
            holder.kill()
            holder.wait(100)
            assert Path(f"/proc/{child}").exists()
            assert other.try_lock()
    finally:
        subprocess.run(["kill", "-KILL", str(child)], check=True)
        holder.communicate()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_whatever_its_threads_are_at_a_forked_child_has_none(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", THREAD, tmp_path / "a"], check=True, timeout=100)

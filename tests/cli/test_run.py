"""`safecopy run`: any command under a living lock, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_provider_safecopy.lock.file_store import FileStore
from tests.cli.conftest import COMMAND, Command, Ran, ended, wait_for_line
from tests.support.until import until

LOCK = "야간_집계"


class Runs:
    """`safecopy run` with a lock of its own directory."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.store = directory / "locks"
        self.environment = environment
        self.head = [*COMMAND, "run", "--lock", LOCK, "--store", str(self.store)]

    def run(self, *words: str, **variables: str) -> Ran:
        done = subprocess.run(
            [*self.head, *words],
            capture_output=True,
            check=False,
            timeout=100,
            env={**self.environment, **variables},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [*self.head, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=self.environment
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


@pytest.fixture
def runs(tmp_path: Path, environment: dict[str, str]) -> Runs:
    return Runs(tmp_path, environment)


def wait_for_output(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    pytest.fail(f"{word!r} was never written")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_passes_through_and_the_exit_code_is_the_commands(runs: Runs) -> None:
    ran = runs.run("--", "sh", "-c", "echo 결과; echo 오류 >&2; exit 7")
    assert (ran.code, ran.out) == (7, "결과\n")
    assert "오류\n" in ran.err


def test_a_signal_that_ends_the_command_is_its_exit_code(runs: Runs) -> None:
    assert runs.run("--", "sh", "-c", "kill -KILL $$").code == 128 + signal.SIGKILL


def test_options_after_the_command_are_the_commands(runs: Runs) -> None:
    ran = runs.run("echo", "--lock", "-v")
    assert (ran.code, ran.out) == (0, "--lock -v\n")


def test_a_second_instance_is_refused_and_names_the_holders_process(runs: Runs) -> None:
    with runs.started("--", "sh", "-c", "echo ready; sleep 1000") as first:
        wait_for_output(first, b"ready")
        second = runs.run("--", "sh", "-c", "echo never")
        skipped = runs.run("--on-busy", "skip", "--", "sh", "-c", "echo never")
        first.kill()
    assert (second.code, second.out) == (3, "")
    assert f"pid {first.pid} on " in second.err
    assert LOCK in second.err
    assert (skipped.code, skipped.out) == (0, "")


def test_a_second_instance_may_wait(runs: Runs) -> None:
    with runs.started("--", "sh", "-c", "echo ready; sleep 1000") as first:
        wait_for_output(first, b"ready")
        with runs.started("--on-busy", "wait", "--", "echo", "둘째") as second:
            wait_for_line(second, b"waiting for it")
            first.kill()
            ran = ended(second)
    assert (ran.code, ran.out) == (0, "둘째\n")


def test_a_database_keeps_the_lock_too(safecopy: Command) -> None:
    """With a target: for commands on several hosts."""
    with safecopy.started("run", "--lock", LOCK, "--", "sh", "-c", "echo ready; sleep 100") as first:
        wait_for_output(first, b"ready")
        second = safecopy.run("run", "--lock", LOCK, "--", "true")
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 128 + signal.SIGTERM
    assert second.code == 3
    assert f"pid {first.pid} on " in second.err
    assert safecopy.run("run", "--lock", LOCK, "--", "true").code == 0


def test_a_command_that_stands_still_is_ended(runs: Runs) -> None:
    """All of it: what it started too, also if that ignores SIGTERM."""
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(1e5)"
    )
    ran = runs.run("--stale-after", "2", "--", "sh", "-c", f'{sys.executable} -c "{child}" & echo $!; wait')
    assert ran.code == 124
    pid = int(next(line for line in ran.out.splitlines() if line.isdecimal()))
    until(lambda: not is_running(pid))
    assert "made no progress for nearly 2 s" in ran.err


def test_it_is_started_again_if_asked_so_many_times(runs: Runs) -> None:
    words = ("--stale-after", "2", "--on-stall", "restart", "--restarts", "2")
    ran = runs.run(*words, "--", "sh", "-c", "echo start; sleep 1000 & wait")
    assert (ran.code, ran.out) == (124, "start\n" * 3)
    assert ran.err.count("it is started again") == 2


def test_a_restart_that_works_is_the_end(runs: Runs, tmp_path: Path) -> None:
    script = f"test -e {tmp_path}/again && echo done && exit 5; touch {tmp_path}/again; sleep 1000 & wait"
    ran = runs.run("--stale-after", "2", "--on-stall", "restart", "--", "sh", "-c", script)
    assert (ran.code, ran.out) == (5, "done\n")


TOUCHES = """
import os, time
end = time.monotonic() + 3.5
while time.monotonic() < end:
    os.utime(os.environ['SAFECOPY_HEARTBEAT'])
    time.sleep(0.05)
"""


def test_touching_the_heartbeat_file_is_progress(runs: Runs) -> None:
    """Twice the time without output after which a command is ended, and without the touch it is."""
    assert runs.run("--stale-after", "2", "--", *python(TOUCHES)).code == 0
    assert runs.run("--stale-after", "2", "--", *python(TOUCHES.replace("os.utime", "str"))).code == 124


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 41), (signal.SIGINT, 42), (signal.SIGUSR1, 43)])
def test_signals_are_passed_on(runs: Runs, number: signal.Signals, code: int) -> None:
    handlers = "trap 'exit 41' TERM; trap 'exit 42' INT; trap 'exit 43' USR1"
    with runs.started("--", "sh", "-c", f"{handlers}; echo ready; while :; do sleep 0.05; done") as process:
        wait_for_output(process, b"ready")
        process.send_signal(number)
        assert process.wait(60) == code


def test_nothing_of_the_command_outlives_a_killed_run(runs: Runs) -> None:
    with runs.started("--", "sh", "-c", "sleep 1000 & echo $!; echo ready; wait") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_for_output(process, b"ready")
        process.kill()
        process.wait()
        until(lambda: not is_running(pid))
        assert runs.run("--", "echo", "다음").out == "다음\n"


def test_a_run_whose_lock_was_taken_ends_the_command(runs: Runs) -> None:
    with runs.started("--stale-after", "5", "--", "sh", "-c", "echo ready; while :; do echo .; sleep 0.1; done") as run:
        wait_for_output(run, b"ready")
        store = FileStore(runs.store)
        assert store.force_release(LOCK, reason="시험") is not None
        out, err = run.communicate(timeout=100)
    assert run.returncode == 4, err.decode()
    assert b"was taken from this run" in err
    assert out


def test_output_that_nobody_reads_is_the_commands_affair(runs: Runs) -> None:
    """As in any pipe: it learns by its next write, and its exit code is told."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*runs.head, "--", *python("import os, time\nfor _ in range(10**5): os.write(1, b'x' * 9000)")]
    done = subprocess.run(
        command, stdout=write_end, stderr=subprocess.PIPE, env=runs.environment, check=False, timeout=100
    )
    os.close(write_end)
    assert done.returncode == 1
    assert b"BrokenPipeError" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--", "그런_명령은_없다"), "there is no command 그런_명령은_없다"),
        (("--restarts", "2", "--", "true"), "--restarts means nothing without --on-stall restart"),
        (("--stale-after", "0", "--", "true"), "no time above zero"),
        ((), "Missing argument"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_started(runs: Runs, words: tuple[str, ...], expected: str) -> None:
    ran = runs.run(*words)
    assert ran.code == 2
    assert expected in ran.err
    assert not runs.store.exists()


def test_without_a_store_the_lock_lies_in_a_directory_of_the_user(bare: Callable[..., Ran], tmp_path: Path) -> None:
    """Below XDG_STATE_HOME, its default in the home, or the temporary directory without a home."""
    words = ("run", "--lock", LOCK, "--", "true")
    assert bare(*words, XDG_STATE_HOME=str(tmp_path / "state")).code == 0
    assert FileStore(tmp_path / "state" / "safecopy" / "locks").read_history(LOCK)
    assert bare(*words, HOME=str(tmp_path / "home")).code == 0
    assert FileStore(tmp_path / "home" / ".local" / "state" / "safecopy" / "locks").read_history(LOCK)
    assert bare(*words, HOME="", TMPDIR=str(tmp_path)).code == 0
    assert FileStore(tmp_path / f"safecopy-{os.getuid()}").read_history(LOCK)

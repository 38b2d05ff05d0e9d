"""A run of the demo's scenes: waited for, paused, killed, and never left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from airflow_provider_safecopy.demo.run import Run
from airflow_provider_safecopy.errors import SafeCopyError

WORKS = "import time; print('works', flush=True); time.sleep(600)"
PATIENCE = 60.0

# A demo that starts a run, pauses it, and is then killed itself.
DEMO = f"""
import sys
from airflow_provider_safecopy.demo.run import Run
class Screen:
    def say(self, text): pass
    detail = say
with Run.start("run", ["-c", {WORKS!r}], {{}}, Screen()) as run:
    run.wait_for("works")
    run.pause()
    print(run.process.pid, flush=True)
    sys.stdin.readline()
"""


class Told:
    """A screen that keeps what was said, and to whom."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.details: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)


def is_gone(pid: int) -> bool:
    """Within a time in which whoever ends it will have done so."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(PATIENCE)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_what_matters_is_said_and_the_rest_is_detail() -> None:
    told = Told()
    lines = ["connected", "lock 분석.고객: token 1 (grant)", "  indented", "safecopy: busy: held", "  held by  누구"]
    code = f"for line in {lines!r}: print(line)"
    with Run.start("first run", ["-c", code], {}, told) as run:
        assert run.ends() == 0
    assert run.said == lines
    assert told.said == [
        "first run: lock 분석.고객: token 1 (grant)",
        "first run: safecopy: busy: held",
        "first run:   held by  누구",
        "first run: exit code 0",
    ]
    assert told.details == ["first run: connected", "first run:   indented"]


def test_it_is_waited_for_by_what_it_says() -> None:
    with Run.start("run", ["-c", WORKS], {}, Told()) as run:
        run.wait_for("works")
        assert run.process.poll() is None
        run.kill()
    assert run.process.returncode == -signal.SIGKILL


def test_one_that_never_says_it_is_an_error_with_its_last_words() -> None:
    with (
        Run.start("lost run", ["-c", "print('그만둡니다'); raise SystemExit(7)"], {}, Told()) as run,
        pytest.raises(SafeCopyError, match="lost run ended with exit code 7, and never said 'verify done'") as caught,
    ):
        run.wait_for("verify done")
    assert "그만둡니다" in caught.value.message


def test_one_that_says_nothing_for_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_safecopy.demo.run._PATIENCE_SECONDS", 0.2)
    with (
        Run.start("silent run", ["-c", WORKS], {}, Told()) as run,
        pytest.raises(SafeCopyError, match=r"silent run has said nothing new for 0\.2 s"),
    ):
        run.wait_for("verify done")
    assert run.process.returncode is not None


@pytest.mark.parametrize("paused", [False, True])
def test_it_ends_with_its_block_paused_or_not(paused: bool) -> None:
    runs: list[Run] = []

    def interrupted() -> None:
        with Run.start("run", ["-c", WORKS], {}, Told()) as run:
            runs.append(run)
            run.wait_for("works")
            if paused:
                run.pause()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert is_gone(runs[0].process.pid)


def test_it_stands_still_while_paused_and_then_goes_on() -> None:
    with Run.start("run", ["-c", "print('works'); print('on')"], {}, Told()) as run:
        run.pause()
        status, deadline = psutil.Process(run.process.pid).status, time.monotonic() + PATIENCE
        while status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
        assert run.process.poll() is None
        run.resume()
        assert run.ends() == 0
    assert run.said == ["works", "on"]


def test_a_paused_one_ends_though_the_demo_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEMO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        assert psutil.pid_exists(pid)
        demo.kill()
        demo.wait()
        assert is_gone(pid)


def test_nothing_of_another_environment_turns_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "somebody else's")
    monkeypatch.setenv("SAFECOPY_TARGET", "somebody else's")
    code = "import os; print([os.environ.get(name) for name in ('PGHOST', 'SAFECOPY_SOURCE', 'SAFECOPY_TARGET')])"
    with Run.start("run", ["-c", code], {"SAFECOPY_SOURCE": "ours"}, Told()) as run:
        run.ends()
    assert run.said == ["[None, 'ours', None]"]

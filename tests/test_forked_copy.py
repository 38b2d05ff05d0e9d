"""A process that forks in the middle of a copy: the child leaves psqls, sessions, tables and locks of its parent alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import NothingLeft
from tests.support.customers import SHAPE, fill, same
from tests.support.database import Database

ROWS = 30_000
PROGRAM = """
import os, sys, warnings
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec

source, target, stage, way, batch = sys.argv[1:]
parent, forked = os.getpid(), False

def fork(at):
    global forked
    if forked or getattr(at, "stage", stage) != stage:
        return
    forked = True
    child = os.fork()
    if child == 0:
        if way == "exit":
            sys.exit(0)
        if way == "error":
            raise ValueError("in the child")
        return
    os.waitpid(child, 0)

def run():
    spec = CopySpec.of(source_table="영업.고객", target_table="영업.고객")
    ends = Endpoint.from_conninfo(source), Endpoint.from_conninfo(target)
    if batch == "batch":
        return pipeline.copy_tables([spec], *ends, progress=fork).outcomes[0]
    return pipeline.copy(spec, *ends, progress=fork)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        report = run()
    except BaseException:
        if os.getpid() == parent:
            raise
        os._exit(0)
    assert os.getpid() == parent, "the child went on with the copy"
    assert forked
    print("copied", report.inserted)
"""


@pytest.mark.parametrize(
    "case",
    [
        *((stage, way, "alone") for stage in ("export", "import", "publish") for way in ("exit", "error")),
        ("export", "return", "alone"),
        ("any", "error", "batch"),
    ],
    ids=" ".join,
)
def test_a_child_that_unwinds_leaves_the_copy_of_its_parent_alone(
    source: Database, target: Database, nothing_left: NothingLeft, case: tuple[str, str, str]
) -> None:
    """The kind: whatever cleans up on the way out of a block that another process has entered."""
    for database in (source, target):
        database.execute(SHAPE)
    rows = 20 if "batch" in case else ROWS
    fill(source, rows)
    program = [sys.executable, "-c", PROGRAM, source.conninfo, target.conninfo, *case]
    done = subprocess.run(program, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == f"copied {rows}"
    assert "Traceback" not in done.stderr
    assert same(source, target)
    nothing_left(source, target)

"""Many tables in one call, one of which somebody keeps locked."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import LockBusyError
from airflow_provider_safecopy.pipeline.outcome import BatchReport, Failure
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from tests.faults.conftest import Ground
from tests.faults.line import LATEST, Line, line_of, make_overdue, new_source, new_target, start
from tests.faults.run import Run, between
from tests.support.database import Servers
from tests.support.remains import Remains

_OTHER = '"영업"."재고"'


@pytest.fixture
def line(servers: Servers, tmp_path: Path) -> Iterator[Line]:
    """Orders that are published by a swap."""
    source, target = new_source(servers), new_target(servers)
    yield line_of("swap", Ground(source, target, tmp_path, Remains().check))
    servers.drop(source)
    servers.drop(target)


def test_a_batch_is_not_hung_by_a_run_stopped_in_its_swap(line: Line) -> None:
    """It keeps the target locked from all: to describe that table was to wait for it, up to `verify_timeout`.

    The batch copied nothing then, not even the other tables.
    """
    for database in (line.ground.source, line.ground.target):
        database.execute(f'DROP TABLE IF EXISTS {_OTHER}; CREATE TABLE {_OTHER} AS SELECT 1 AS "번호"')
    line.ground.put_old_rows_back()
    invariant = line.before()
    with between(line.ground.source, line.ground.target) as run:
        run.at_commit(lambda: _stop(run))
        start(run, line.ground, line.words)
        assert run.met.wait(LATEST)
        line.ground.target.execute("UPDATE safecopy.lock SET alive_at = clock_timestamp() - interval '12 seconds'")
        busy, other = _copied(line).outcomes
        assert isinstance(busy, Failure)
        assert isinstance(busy.error, LockBusyError)
        assert isinstance(other, CopyReport)
        make_overdue(line)
        invariant.recovered(lambda: _first(_copied(line)))
        assert run.ended().code == -signal.SIGKILL


def _stop(run: Run) -> bool:
    run.wires["target"].stall_now()
    return run.send("our process", signal.SIGSTOP)


def _copied(line: Line) -> BatchReport:
    limits = Timeouts(verify=2, stall=1)  # what waits is told apart from what is done
    orders = line.ground.spec(publish="swap", timeouts=limits)
    other = CopySpec.of(source_table="영업.재고", target_table="영업.재고", timeouts=limits)
    return pipeline.copy_tables(
        [orders, other], line.ground.source.endpoint, line.ground.target.endpoint, keep_going=True
    )


def _first(report: BatchReport) -> CopyReport:
    first = report.outcomes[0]
    assert isinstance(first, CopyReport), first
    return first

"""A swap of rows that several lanes have loaded: no transaction older than they are ever finds an empty table."""

from __future__ import annotations

import threading

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageTimeoutError
from airflow_provider_safecopy.transfer import elders
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.timeouts import Timeouts
from tests.conftest import NothingLeft
from tests.ground.database import Database

ROWS = 5000


@pytest.fixture
def both(source: Database, target: Database) -> tuple[Database, Database]:
    source.execute(f"CREATE TABLE public.고객 AS SELECT g AS 번호 FROM generate_series(1, {ROWS}) g")
    target.execute("CREATE TABLE public.고객 AS SELECT 1 AS 번호")
    return source, target


def spec(**options: object) -> CopySpec:
    given = {"source_table": "public.고객", "target_table": "public.고객", "publish": "swap", "parallel": 2}
    return CopySpec.of(**given | options)  # type: ignore[arg-type]


def test_it_waits_for_whoever_has_an_older_snapshot(both: tuple[Database, Database]) -> None:
    source, target = both
    waited = threading.Event()

    def copy() -> None:
        pipeline.copy(spec(), source.endpoint, target.endpoint)
        waited.set()

    with target.connect() as elder:
        elder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        copying = threading.Thread(target=copy)
        copying.start()
        assert not waited.wait(2), "it must not publish while the elder lives"
        assert elder.execute("SELECT count(*) FROM public.고객".encode()).fetchone() == (1,)
        elder.execute("COMMIT")
        copying.join(30)
    assert waited.is_set()
    assert target.value("SELECT count(*) FROM public.고객") == ROWS


def test_whoever_begins_later_or_holds_no_snapshot_is_not_waited_for(
    both: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = both
    of = elders.of
    with target.connect() as idle, target.connect() as young:
        idle.execute("BEGIN; SELECT 1")  # read committed: its next statement has a snapshot of its own

        def noted(job: Job) -> frozenset[str]:
            found = of(job)
            young.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            return found

        monkeypatch.setattr(elders, "of", noted)
        report = pipeline.copy(spec(timeouts=Timeouts(publish=20)), source.endpoint, target.endpoint)
        assert report.rows == ROWS
        for session in (idle, young):
            assert session.execute("SELECT count(*) FROM public.고객".encode()).fetchone() == (ROWS,)


def test_an_elder_that_does_not_end_is_named_and_nothing_is_changed(
    both: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = both
    with target.connect() as elder:
        elder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        pid = elder.info.backend_pid
        with pytest.raises(StageTimeoutError, match=f"pid {pid}") as caught:
            pipeline.copy(spec(timeouts=Timeouts(publish=1)), source.endpoint, target.endpoint)
        assert "parallel=1" in caught.value.hint
        elder.execute("COMMIT")
    assert target.value("SELECT count(*) FROM public.고객") == 1
    nothing_left(source, target)


def test_one_lane_loads_frozen_rows_and_waits_for_nobody(both: tuple[Database, Database]) -> None:
    source, target = both
    with target.connect() as elder:
        elder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        pipeline.copy(spec(parallel=1, timeouts=Timeouts(publish=20)), source.endpoint, target.endpoint)
        assert elder.execute("SELECT count(*) FROM public.고객".encode()).fetchone() == (ROWS,)

"""The stream between a fast source and a slow target: bounded, in order, and the source let go early."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageError, StalledError
from airflow_provider_safecopy.spec import CopySpec, MiB, Progress, Timeouts
from tests.conftest import NothingLeft
from tests.support.database import Database

ROWS = 64 * 1024
# A KiB a row in the stream, made on the fly.
MANY = f"SELECT g AS n, repeat(md5(g::text), 32) AS x FROM generate_series(1, {ROWS}) g"
_IN_TRANSACTION = (
    "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'safecopy:') "
    "AND datname = current_database() AND xact_start IS NOT NULL"
)


class Paused:
    """Stops the import psql once it is there; `go_on` lets it continue, by itself after `seconds` if given."""

    def __init__(self, seconds: float | None = None, then: Callable[[Progress], None] = lambda _: None) -> None:
        self.pid: int | None = None
        self._seconds = seconds
        self._then = then

    def __call__(self, at: Progress) -> None:
        if self.pid is None and (found := importing()):
            self.pid = found[0].pid
            os.kill(self.pid, signal.SIGSTOP)
            if self._seconds is not None:
                threading.Timer(self._seconds, self.go_on).start()
        self._then(at)

    def go_on(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGCONT)


def importing() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if any(word.startswith("COPY ") for word in child.cmdline())]


@pytest.fixture
def spec(target: Database, tmp_path: Path) -> Callable[..., CopySpec]:
    target.execute("CREATE TABLE t (n int, x text)")

    def make(**options: object) -> CopySpec:
        given = {"source_sql": MANY, "target_table": "public.t", "transfer": "chunked", "spool_dir": str(tmp_path)}
        return CopySpec.of(**given | options)

    return make


def test_what_a_slow_target_has_not_taken_waits_on_disk_and_the_source_is_let_go(
    source: Database, target: Database, spec: Callable[..., CopySpec], nothing_left: NothingLeft, tmp_path: Path
) -> None:
    open_transactions: list[int] = []

    def look(at: Progress) -> None:
        # The export is proven, and the import has not gone on yet.
        if at.stage == "import" and not open_transactions:
            open_transactions.append(source.value(_IN_TRANSACTION))
            paused.go_on()

    paused = Paused(then=look)
    report = pipeline.copy(spec(verify="counts"), source.endpoint, target.endpoint, progress=paused)
    assert open_transactions == [0]
    assert report.rows == ROWS
    assert 32 * MiB < report.spool_bytes <= 64 * MiB + ROWS * 64
    assert target.value("SELECT count(*) FROM t WHERE x = repeat(md5(n::text), 32)") == ROWS, "in order, and whole"
    nothing_left(source, target, spool=tmp_path)


def test_the_spool_limit_makes_the_source_wait_and_that_is_no_stall_of_its(
    source: Database, target: Database, spec: Callable[..., CopySpec], nothing_left: NothingLeft, tmp_path: Path
) -> None:
    limit = 20 * MiB
    report = pipeline.copy(
        spec(spool_limit=limit, timeouts=Timeouts(stall=3)), source.endpoint, target.endpoint, progress=Paused(1.5)
    )
    assert report.rows == ROWS
    assert 0 < report.spool_bytes <= limit
    nothing_left(source, target, spool=tmp_path)


def test_a_target_that_takes_nothing_is_a_stall_of_the_import(
    source: Database, target: Database, spec: Callable[..., CopySpec], nothing_left: NothingLeft, tmp_path: Path
) -> None:
    with pytest.raises(StalledError) as caught:
        pipeline.copy(
            spec(spool_limit=20 * MiB, timeouts=Timeouts(stall=1)),
            source.endpoint,
            target.endpoint,
            progress=Paused(),
        )
    assert caught.value.stage == "import"
    nothing_left(source, target, spool=tmp_path)


def test_a_target_that_takes_nothing_is_a_stall_though_the_source_is_read_slowly(
    source: Database, target: Database, spec: Callable[..., CopySpec], nothing_left: NothingLeft, tmp_path: Path
) -> None:
    with pytest.raises(StalledError) as caught:
        pipeline.copy(
            spec(rate_limit=4 * MiB, timeouts=Timeouts(stall=1, export=10)),
            source.endpoint,
            target.endpoint,
            progress=Paused(),
        )
    assert caught.value.stage == "import"
    nothing_left(source, target, spool=tmp_path)


def test_a_sequential_copy_over_its_spool_limit_says_so(
    source: Database, target: Database, spec: Callable[..., CopySpec], nothing_left: NothingLeft, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="spool_limit") as caught:
        pipeline.copy(spec(transfer="sequential", spool_limit=20 * MiB), source.endpoint, target.endpoint)
    assert caught.value.stage == "export"
    assert "chunked" in caught.value.hint
    nothing_left(source, target, spool=tmp_path)


def test_progress_of_the_stream_only_grows_and_ends_at_its_size(
    source: Database, target: Database, spec: Callable[..., CopySpec]
) -> None:
    seen: list[Progress] = []
    report = pipeline.copy(spec(), source.endpoint, target.endpoint, progress=seen.append)
    exported = [at.bytes for at in seen if at.stage == "export"]
    assert exported == sorted(exported)
    assert exported[-1] <= report.bytes == seen[-1].bytes  # type: ignore[operator]

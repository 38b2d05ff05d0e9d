from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo

from benchmarks import data, quick, release
from benchmarks.contestant import CHUNKED, MAIN, Contestant, Task, ours
from benchmarks.data import Data
from benchmarks.measure import Command, FailedError
from benchmarks.pair import Pair
from benchmarks.progress import Progress
from benchmarks.release import Watch
from benchmarks.rounds import WrongError, alternate, once

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(pair: Pair) -> Iterator[Data]:
    found = data.make(pair, "like-lineitem", 2_000_000)
    yield found
    data.drop(pair, found)


def test_all_contestants_bring_all_rows_in_turn(pair: Pair, made: Data) -> None:
    runs = alternate(pair, made, MAIN, section="ratios", rounds=1, progress=Progress())
    assert [run.name for run in runs] == [each.name for each in MAIN]
    assert all(run.rows == made.rows and run.wall > 0 and run.client_cpu > 0 for run in runs)
    (chunked,) = [run for run in runs if run.name == CHUNKED]
    assert chunked.stream_bytes is not None
    assert chunked.stream_bytes > made.heap / 2
    assert chunked.own_rss is not None
    assert chunked.own_rss > 10_000_000


def test_who_does_nothing_is_found_out(pair: Pair, made: Data) -> None:
    idle = Contestant("idle", lambda _: ((Command((sys.executable, "-c", "")),),))
    with pytest.raises(WrongError, match="idle: "):
        once(pair, made, idle)


def test_who_fails_is_named(pair: Pair, made: Data) -> None:
    with pytest.raises(FailedError, match="broken, 주문_명세"):
        once(pair, made, ours("broken", "--format", "nonsense"))


def test_the_quick_guard_measures_three_pairs_at_least(pair: Pair, made: Data) -> None:
    assert len(quick.paired(pair, made, deadline=time.monotonic())) == 3


def test_the_source_is_watched_while_a_copy_reads_it(pair: Pair, made: Data) -> None:
    with Watch(make_conninfo(pair.conninfos()[0])) as watch:
        once(pair, made, ours(CHUNKED, "--transfer", "chunked", "--rate-limit", "4MB"))
    assert watch.held > 0.1


def test_the_length_of_an_export_is_counted(pair: Pair, made: Data) -> None:
    known = ours(CHUNKED, "--format", "binary").said(once(pair, made, ours(CHUNKED, "--format", "binary")).said)
    assert release.stream_bytes(pair, made) == known["stream_bytes"]


def test_names_are_quoted_for_sql() -> None:
    assert Task("", "", "주문.명세", "psql").quoted == 'public."주문.명세"'

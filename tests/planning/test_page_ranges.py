"""Lanes side by side: every row once, under one snapshot, whatever others do meanwhile."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import ConfigError, PlanError, StageError
from airflow_provider_safecopy.planning import page_ranges
from airflow_provider_safecopy.planning.page_ranges import PageRange, divide_pages
from airflow_provider_safecopy.spec import CopySpec, Progress
from tests.conftest import NothingLeft
from tests.support.database import Database

ROWS = 20_000
_FILL = f"SELECT g AS 번호, '고객 ' || g AS 이름 FROM generate_series(1, {ROWS}) g"
_SAME = "SELECT count(*), count(DISTINCT 번호), sum(번호)::bigint, min(이름), max(이름) FROM public.고객"


def spec(**options: object) -> CopySpec:
    given = {"source_table": "public.고객", "target_table": "public.고객", "parallel": 3, "publish": "delta"}
    return CopySpec.of(**given | options)


@pytest.fixture
def both(source: Database, target: Database) -> tuple[Database, Database]:
    source.execute(f"CREATE TABLE public.고객 AS {_FILL}; ALTER TABLE public.고객 ADD PRIMARY KEY (번호)")
    target.execute("CREATE TABLE public.고객 (번호 int PRIMARY KEY, 이름 text)")
    return source, target


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_ranges_cover_every_page_once(count: int, among: int) -> None:
    found = list(divide_pages(count, among))
    assert len(found) == max(1, min(count, among))
    if len(found) == 1:
        assert found == [None]
        return
    ranges = [each for each in found if each is not None]
    assert ranges[0].first == 0
    assert ranges[-1].end is None
    assert [each.end for each in ranges[:-1]] == [each.first for each in ranges[1:]]
    widths = [each.end - each.first for each in ranges[:-1] if each.end is not None]
    assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize("publish", ["delta", "delete_insert", "truncate_insert"])
@pytest.mark.parametrize("transfer", ["sequential", "chunked"])
def test_every_row_arrives_once(
    both: tuple[Database, Database], nothing_left: NothingLeft, publish: str, transfer: str
) -> None:
    source, target = both
    report = pipeline.copy(spec(publish=publish, transfer=transfer, verify="full"), source.endpoint, target.endpoint)
    stages = [stage.stage for stage in report.stages]
    assert (stages.count("export"), stages.count("import")) == (3, 3)
    assert sum(stage.rows or 0 for stage in report.stages if stage.stage == "import") == report.rows == ROWS
    assert target.rows(_SAME) == source.rows(_SAME)
    proof = target.value("SELECT proof FROM safecopy.receipt")
    assert proof["rows"] == {"exported": ROWS, "imported": ROWS, "staging": ROWS}
    assert proof["digest"] == {"exported": report.digest, "imported": report.digest}
    nothing_left(source, target)


def test_partitions_and_dead_rows_are_divided_too(source: Database, target: Database) -> None:
    source.execute(
        "CREATE TABLE public.고객 (번호 int, 이름 text) PARTITION BY RANGE (번호);"
        "CREATE TABLE public.앞 PARTITION OF public.고객 FOR VALUES FROM (0) TO (15000);"
        "CREATE TABLE public.뒤 PARTITION OF public.고객 DEFAULT;"
        f"INSERT INTO public.고객 {_FILL}; UPDATE public.고객 SET 이름 = 이름 || '!' WHERE 번호 % 3 = 0;"
        "DELETE FROM public.고객 WHERE 번호 % 7 = 0"
    )
    target.execute("CREATE TABLE public.고객 (번호 int, 이름 text)")
    pipeline.copy(spec(where="번호 % 2 = 0", publish="delete_insert"), source.endpoint, target.endpoint)
    assert target.rows(_SAME) == source.rows(f"{_SAME} WHERE 번호 % 2 = 0")


def test_all_lanes_see_one_instant_and_rows_stay_where_they_are(both: tuple[Database, Database]) -> None:
    """A writer that moves rows from the last page to the first, and a VACUUM FULL, between the lanes' starts."""
    source, target = both
    before = source.rows(_SAME)
    blocked: list[bool] = []

    def meddle(at: Progress) -> None:
        if at.stage != "export" or blocked:
            return
        with source.connect() as other:
            other.execute("UPDATE public.고객 SET 이름 = '바뀐 고객'".encode())
            other.execute(
                f"INSERT INTO public.고객 SELECT g + {ROWS}, '새 고객' FROM generate_series(1, 100) g".encode()
            )
            other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("VACUUM FULL public.고객".encode())
        blocked.append(True)

    pipeline.copy(spec(), source.endpoint, target.endpoint, progress=meddle)
    assert blocked
    assert target.rows(_SAME) == before


@pytest.mark.parametrize("died", [0, 1, 2])
def test_one_lane_that_fails_fails_all(both: tuple[Database, Database], nothing_left: NothingLeft, died: int) -> None:
    source, target = both
    # One page of three holds what the target's column cannot take.
    source.execute(f"UPDATE public.고객 SET 이름 = repeat('x', 100) WHERE 번호 = {1 + died * (ROWS // 3) + 50}")
    target.execute("ALTER TABLE public.고객 ADD CHECK (length(이름) < 50)")
    with pytest.raises(StageError):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert target.value("SELECT count(*) FROM public.고객") == 0
    nothing_left(source, target)


def test_what_stores_no_pages_is_refused_and_auto_goes_alone(both: tuple[Database, Database]) -> None:
    source, target = both
    source.execute('CREATE VIEW public."고객 보기" AS SELECT * FROM public.고객')
    for options in (
        {"source_table": ("public", "고객 보기")},
        {"source_table": None, "source_sql": "SELECT * FROM public.고객"},
    ):
        with pytest.raises(PlanError) as caught:
            pipeline.copy(spec(**options), source.endpoint, target.endpoint)
        assert [refusal.code for refusal in caught.value.refusals] == ["parallel"]
        plan = pipeline.plan(spec(**options | {"parallel": "auto"}), source.endpoint, target.endpoint)
        assert plan.page_ranges == (None,)


@pytest.mark.parametrize("transfer, needed", [("sequential", 2), ("chunked", 4)])
def test_auto_divides_large_tables_alone_and_only_where_that_is_faster(
    both: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, transfer: str, needed: int
) -> None:
    source, target = both
    asked = spec(parallel="auto", transfer=transfer)
    small = pipeline.plan(asked, source.endpoint, target.endpoint)
    assert small.page_ranges == (None,)
    assert any("parallel 1" in reason for reason in small.reasons)
    source.execute("ANALYZE public.고객")
    monkeypatch.setattr(page_ranges, "LARGE_BYTES", 1000)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(needed)))
    large = pipeline.plan(asked, source.endpoint, target.endpoint)
    assert [type(each) for each in large.page_ranges] == [PageRange, PageRange]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(needed - 1)))
    alone = pipeline.plan(asked, source.endpoint, target.endpoint)
    assert alone.page_ranges == (None,)
    assert any(f"wants {needed} processors" in reason for reason in alone.reasons)


@pytest.mark.parametrize("parallel", [3, "auto"])
@pytest.mark.parametrize(
    "change, publish", [("SELECT 1", "swap"), ("CREATE PUBLICATION 발행 FOR TABLE public.고객", "delta")]
)
def test_auto_never_swaps_rows_of_several_lanes(
    both: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, parallel: object, change: str, publish: str
) -> None:
    """Rows of several lanes cannot be frozen, and are not there for an older snapshot, wherever it is held.

    Who holds one cannot be known: it may be imported later, on a standby, or by a role whose activity is hidden.
    """
    source, target = both
    source.execute("ANALYZE public.고객")
    target.execute("INSERT INTO public.고객 VALUES (0, '옛 고객')")
    target.execute(change)
    monkeypatch.setattr(page_ranges, "LARGE_BYTES", 1000)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    with target.connect() as older, target.connect() as younger:
        older.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        ((exported,),) = older.execute("SELECT pg_export_snapshot()").fetchall()
        report = pipeline.copy(spec(parallel=parallel, publish="auto"), source.endpoint, target.endpoint)
        younger.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        younger.execute(f"SET TRANSACTION SNAPSHOT '{exported}'".encode())
        for reader in (older, younger):
            seen = reader.execute("SELECT count(*) FROM public.고객".encode()).fetchone()
            assert seen in {(1,), (ROWS,)}
    assert report.publish == publish
    lanes = 1 if publish == "swap" else 3 if parallel == 3 else 2
    assert [stage.stage for stage in report.stages].count("import") == lanes
    assert any("older snapshot" in reason for reason in report.reasons) == (publish == "swap")


def test_lanes_and_a_swap_asked_for_together_are_refused(both: tuple[Database, Database]) -> None:
    source, target = both
    refused = pipeline.plan(spec(publish="swap"), source.endpoint, target.endpoint).refusals
    assert [refusal.code for refusal in refused] == ["parallel"]
    assert "parallel=1" in refused[0].hint
    assert pipeline.plan(spec(publish="swap", parallel="auto"), source.endpoint, target.endpoint).refusals == ()


@pytest.mark.parametrize("parallel", [0, -1, 1.5, "many", True, None])
def test_numbers_that_cannot_be_meant_are_refused(parallel: object) -> None:
    with pytest.raises(ConfigError, match="parallel"):
        spec(parallel=parallel)

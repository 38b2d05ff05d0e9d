"""Guards: too few rows, too great a loss, too many NULLs; refused with all numbers, and everything is as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import ConfigError, PlanError, VerifyError
from airflow_provider_safecopy.planning import row_checks
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.spec import Progress
from tests.conftest import MakeDatabase, NothingLeft
from tests.support.content import rows_of
from tests.support.customers import TABLE, fill, spec
from tests.support.database import Database

REPLACING = [way for way in ("delete_insert", "truncate_insert", "delta", "swap") if way in STRATEGIES]
ALL_ROWS = f"SELECT * FROM {TABLE}"
COLUMNS = ("번호", "이름", "금액", "가입")


def refused(source: Database, target: Database, nothing_left: NothingLeft, **options: Any) -> VerifyError:
    """The refusal of a copy that leaves the target, and all else, as it was."""
    before = rows_of(target, ALL_ROWS)
    with pytest.raises(VerifyError, match="nothing was changed") as caught:
        pipeline.copy(spec(**options), source.endpoint, target.endpoint)
    assert rows_of(target, ALL_ROWS) == before
    assert target.value("SELECT count(*) FROM safecopy.receipt") == 0
    nothing_left(source, target)
    assert not caught.value.retryable
    assert caught.value.hint
    json.dumps(caught.value.as_dict(), allow_nan=False)
    return caught.value


# How many rows


def test_fewer_rows_than_asked_for_are_refused(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    error = refused(source, target, nothing_left, min_rows=2001)
    assert error.proofs == {"rows": {"exported": 2000, "min_rows": 2001}}
    assert "gave 2000 rows" in error.message
    assert "min_rows=2001" in error.message
    assert "영업.고객" in error.message
    assert "min_rows" in error.hint
    assert pipeline.copy(spec(min_rows=2000), source.endpoint, target.endpoint).rows == 2000


def test_a_table_without_rows_is_refused_by_the_plan(filled: tuple[Database, Database]) -> None:
    source, target = filled
    asked = {"where": '"번호" < 0'}
    (without,) = pipeline.plan(spec(**asked), source.endpoint, target.endpoint).refusals
    assert (without.code, "would empty the target" in without.message) == ("empty_source", True)
    assert "min_rows=0" in without.hint
    (given,) = pipeline.plan(spec(**asked, min_rows=5), source.endpoint, target.endpoint).refusals
    assert (given.code, "min_rows asks for 5" in given.message) == ("empty_source", True)
    assert "min_rows" in given.hint
    assert pipeline.plan(spec(**asked, min_rows=0), source.endpoint, target.endpoint).refusals == ()


def test_a_query_without_rows_is_known_only_once_it_has_run(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    query = {"source_table": None, "source_sql": f'SELECT * FROM {TABLE} WHERE "번호" < 0'}
    error = refused(source, target, nothing_left, **query)
    assert error.proofs == {"rows": {"exported": 0, "min_rows": 1}}
    assert "would empty 영업.고객" in error.message
    assert pipeline.copy(spec(**query, min_rows=0), source.endpoint, target.endpoint).rows == 0


# How many fewer


@pytest.fixture
def shrunk(filled: tuple[Database, Database]) -> tuple[Database, Database]:
    """A target of 1,000 rows, and a source that has lost 23 of them."""
    source, target = filled
    source.execute(f'DELETE FROM {TABLE} WHERE "번호" > 977')
    target.execute(f"DELETE FROM {TABLE}")
    fill(target, 1000)
    return source, target


def test_a_target_that_would_lose_too_many_rows_is_refused(
    shrunk: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = shrunk
    error = refused(source, target, nothing_left, max_shrink=2.2)
    assert error.proofs == {"shrink": {"previous": 1000, "new": 977, "percent": 2.3, "max_shrink": 2.2}}
    assert "would lose 23 of its 1000 rows (2.3 %) and hold 977" in error.message
    assert "max_shrink" in error.hint
    # Just so many are not more; as floats, 2.3 * 1000 is less than 2300.
    assert pipeline.copy(spec(max_shrink=2.3), source.endpoint, target.endpoint).rows == 977


@pytest.mark.parametrize("way", REPLACING)
def test_what_counts_is_counted_inside_the_publish(
    shrunk: tuple[Database, Database], nothing_left: NothingLeft, way: str
) -> None:
    """Somebody adds rows after the early look: the publish would delete them."""
    source, target = shrunk

    def add(at: Progress) -> None:
        if at.stage == "publish":
            target.execute(f"INSERT INTO {TABLE} SELECT g, '새 고객' FROM generate_series(5001, 6000) g")

    with pytest.raises(VerifyError, match="would lose 1023 of its 2000 rows") as caught:
        pipeline.copy(spec(publish=way, max_shrink=50), source.endpoint, target.endpoint, progress=add)
    assert caught.value.proofs["shrink"] == {"previous": 2000, "new": 977, "percent": 51.15, "max_shrink": 50}
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2000
    nothing_left(source, target)


def test_nothing_is_deleted_for_a_refusal_known_before(
    shrunk: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = shrunk
    target.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'touched'; END$$;"
        f"CREATE TRIGGER note BEFORE INSERT OR DELETE ON {TABLE} EXECUTE FUNCTION note()"
    )
    refused(source, target, nothing_left, max_shrink=0)


def test_a_locked_target_is_not_waited_for_before_its_time(
    shrunk: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = shrunk
    with target.connect() as holder:
        holder.execute("BEGIN")

        def hold(at: Progress) -> None:
            if at.stage == "verify":
                holder.execute(f"LOCK TABLE {TABLE}".encode())
            elif at.stage == "publish":
                holder.execute("ROLLBACK")

        with pytest.raises(VerifyError, match="would lose 23 of its 1000 rows"):
            pipeline.copy(spec(max_shrink=1), source.endpoint, target.endpoint, progress=hold)
    nothing_left(source, target)


@pytest.mark.parametrize("left", [0, 5])
def test_an_empty_target_loses_nothing(filled: tuple[Database, Database], left: int) -> None:
    source, target = filled
    source.execute(f'DELETE FROM {TABLE} WHERE "번호" > {left}')
    target.execute(f"DELETE FROM {TABLE}")
    report = pipeline.copy(spec(max_shrink=0, min_rows=0), source.endpoint, target.endpoint)
    assert (report.previous_rows, report.rows) == (0, left)


# How many without a value


def test_too_many_nulls_are_refused(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled  # every seventh has no 금액: 285 of 2,000
    error = refused(source, target, nothing_left, max_null_share={"금액": 14.2, "가입": 0})
    assert error.proofs == {"NULLs in 금액": {"NULLs": 285, "rows": 2000, "percent": 14.25, "max_null_share": 14.2}}
    assert "column 금액 is NULL in 285 of 2000 rows (14.25 %), where 14.2 % is allowed" in error.message
    assert "가입" not in error.message
    assert "max_null_share" in error.hint
    kept = spec(max_null_share={"금액": 14.25, "가입": 0}, verify="full")
    assert pipeline.copy(kept, source.endpoint, target.endpoint).rows == 2000


def test_every_column_with_too_many_nulls_is_told(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    name = '큰 "금액".Amount'
    for database in filled:
        database.execute(f'ALTER TABLE {TABLE} ADD "{name.replace(chr(34), chr(34) * 2)}" int')
    error = refused(source, target, nothing_left, max_null_share={name: 99, "금액": 1, "이름": 0}, verify="full")
    assert list(error.proofs) == ['NULLs in "큰 ""금액"".Amount"', "NULLs in 금액"]
    assert error.proofs['NULLs in "큰 ""금액"".Amount"']["NULLs"] == 2000


def test_a_row_of_nulls_is_a_value(database: MakeDatabase, nothing_left: NothingLeft) -> None:
    """What IS NULL of a composite value says is another thing."""
    source, target = database(major=16), database()
    for each in (source, target):
        each.execute('CREATE SCHEMA "영업"; CREATE TYPE "영업"."점" AS (x int, y int)')
        each.execute('CREATE TABLE "영업"."고객" ("곳" "영업"."점")')
    source.execute(f"INSERT INTO {TABLE} VALUES (ROW(NULL, NULL)), (NULL)")
    error = refused(source, target, nothing_left, max_null_share={"곳": 49})
    assert error.proofs["NULLs in 곳"]["NULLs"] == 1
    assert pipeline.copy(spec(max_null_share={"곳": 50}), source.endpoint, target.endpoint).rows == 2


@pytest.mark.parametrize("column", ["없는_열", "가입"])
def test_a_guarded_column_must_be_copied(filled: tuple[Database, Database], column: str) -> None:
    source, target = filled
    asked = spec(columns=["번호", "이름"], max_null_share={column: 5, "이름": 0})
    with pytest.raises(PlanError) as caught:
        pipeline.copy(asked, source.endpoint, target.endpoint)
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.table, refusal.column) == ("guard_column", "영업.고객", column)
    assert "번호, 이름" in refusal.hint


def test_a_column_is_named_as_the_target_has_it(database: MakeDatabase) -> None:
    source, target = database(), database()
    source.execute(
        'CREATE SCHEMA "영업"; CREATE TABLE "영업"."고객" (name text); INSERT INTO "영업"."고객" VALUES (NULL)'
    )
    target.execute('CREATE SCHEMA "영업"; CREATE TABLE "영업"."고객" ("이름" text)')
    with pytest.raises(VerifyError, match="column 이름 is NULL in 1 of 1 rows"):
        pipeline.copy(spec(columns={"name": "이름"}, max_null_share={"이름": 0}), source.endpoint, target.endpoint)


# Told beforehand


def test_the_plan_tells_the_guards(filled: tuple[Database, Database]) -> None:
    source, target = filled
    asked = spec(min_rows=7, max_shrink=12.5, max_null_share={"금액": 20})
    told = pipeline.plan(asked, source.endpoint, target.endpoint).reasons[-1]
    assert told.startswith("guards on rows: at least 7 from the source (min_rows), ")
    assert "12.5 % fewer than the target holds (max_shrink)" in told
    assert "20 % of them without 금액 (max_null_share)" in told


def test_no_guard_is_told_where_there_is_none() -> None:
    assert row_checks.describe_checks(spec()) == ("guards on rows: at least 1 from the source (min_rows)",)
    assert row_checks.describe_checks(spec(min_rows=0)) == ()
    assert row_checks.describe_checks(spec(write_mode="upsert")) == ()


def test_staging_is_dropped_by_the_run_that_is_refused(filled: tuple[Database, Database]) -> None:
    source, target = filled
    seen: list[str] = []

    def look(at: Progress) -> None:
        if at.stage == "verify":
            seen.extend(
                name for (name,) in target.rows("SELECT relname::text FROM pg_class WHERE relname ~ '__safecopy_'")
            )

    with pytest.raises(VerifyError):
        pipeline.copy(spec(min_rows=9999), source.endpoint, target.endpoint, progress=look)
    assert any(name.startswith("고객__safecopy_1_") for name in seen)
    assert target.rows("SELECT relname FROM pg_class WHERE relname ~ '__safecopy_'") == []


# The guard in modes that delete


@pytest.mark.parametrize("missing", ["delete", "mark"])
def test_an_upsert_that_removes_too_many_rows_is_refused(
    filled: tuple[Database, Database], nothing_left: NothingLeft, missing: str
) -> None:
    """A source that has lost its rows must not take the target's with it, in whatever mode rows are removed or marked."""
    source, target = filled
    fill(target, 100)
    asked: dict[str, Any] = {"write_mode": "upsert", "missing": missing, "where": '"번호" <= 10', "columns": COLUMNS}
    if missing == "mark":
        target.execute(f'ALTER TABLE {TABLE} ADD "없어짐" timestamptz')
        asked["missing_column"] = "없어짐"
    error = refused(source, target, nothing_left, **asked, max_shrink=50)
    assert error.proofs == {"shrink": {"previous": 102, "new": 10, "percent": 90.196, "max_shrink": 50}}
    assert pipeline.copy(spec(**asked, max_shrink=91), source.endpoint, target.endpoint).deleted == 92
    if missing == "mark":  # rows that are marked already are lost already: what is left is what counts
        with pytest.raises(VerifyError, match="would lose 9 of its 10 rows"):
            pipeline.copy(spec(**asked | {"where": '"번호" = 1'}, max_shrink=50), source.endpoint, target.endpoint)


@pytest.mark.parametrize(
    "asked",
    [
        {"write_mode": "upsert"},
        {"write_mode": "append", "append_key": "하나"},
        {"write_mode": "incremental", "cursor_column": "번호"},
    ],
)
def test_a_guard_that_could_never_hold_is_an_error(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="max_shrink means nothing"):
        spec(**asked, max_shrink=10)

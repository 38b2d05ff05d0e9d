"""Functions that name things without a schema: what works in the role's own search_path is copied."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, SafeCopyError, StageError
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase, NothingLeft
from tests.support.content import rows_of
from tests.support.database import Database

ROWS = 'SELECT * FROM "측점"'
_TABLE = 'CREATE TABLE "측점" ("번호" int PRIMARY KEY, "값" int)'
# As earthdistance has it: a function of SQL that calls another one without a schema.
_FUNCTIONS = """
CREATE FUNCTION "안"(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE FUNCTION "밖"(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT "안"($1)';
CREATE FUNCTION "절차"(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN "안"($1); END';
CREATE FUNCTION "맞나"(x int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT "안"($1) > 0';
"""
THINGS = {
    "an index": 'CREATE INDEX ON "측점" ("밖"("값"))',
    "a partial index": 'CREATE INDEX ON "측점" ("값") WHERE "밖"("값") > 0',
    "statistics": 'CREATE STATISTICS "통계" ON ("밖"("값")), ("밖"("번호")) FROM "측점"; ANALYZE "측점"',
    "a check": 'ALTER TABLE "측점" ADD CHECK ("맞나"("값"))',
    "an index in plpgsql": 'CREATE INDEX ON "측점" ("절차"("값"))',
}


def spec(**options: Any) -> CopySpec:
    return CopySpec.of(**{"source_table": "public.측점", "target_table": "public.측점"} | options)


@pytest.fixture
def ends(database: MakeDatabase) -> tuple[Database, Database]:
    """Servers that let an index call such functions: from 17 on CREATE INDEX itself refuses it."""
    source, target = database(major=16), database(major=16)
    for each in (source, target):
        each.execute(_TABLE + ";" + _FUNCTIONS)
    source.execute('INSERT INTO "측점" SELECT g, g * 2 FROM generate_series(1, 500) g')
    target.execute('INSERT INTO "측점" VALUES (1, 1), (999, 1)')
    return source, target


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"verify": "full"},
        {"where": '"값" > 100', "verify": "full"},
        {"source_table": None, "source_sql": 'SELECT * FROM public."측점" WHERE "값" > \'100\'', "verify": "full"},
        {"source_table": "public.보기", "verify": "full"},
        {"parallel": 2, "publish": "delta", "transfer": "chunked"},
        {"write_mode": "incremental", "cursor_column": "값"},
        {"source_table": "public.전체"},
    ],
    ids=["a table", "its hash", "a condition", "a query", "a view", "streams", "incremental", "a partitioned table"],
)
@pytest.mark.parametrize("thing", THINGS)
def test_a_source_whose_functions_name_things_without_a_schema_is_copied(
    ends: tuple[Database, Database], nothing_left: NothingLeft, thing: str, options: dict[str, Any]
) -> None:
    """The kind: a function that works for everybody who reads the table is no reason to refuse it."""
    source, target = ends
    source.execute(THINGS[thing])
    source.execute('CREATE VIEW "보기" AS SELECT "번호", "밖"("값") - 1 AS "값" FROM "측점"')
    source.execute(
        'CREATE TABLE "전체" (LIKE "측점") PARTITION BY RANGE ("번호"); ALTER TABLE "측점" ADD CHECK ("번호" < 1000);'
        'ALTER TABLE "전체" ATTACH PARTITION "측점" FOR VALUES FROM (0) TO (1000)'
    )
    pipeline.copy(spec(**options), source.endpoint, target.endpoint)
    filtered = ' WHERE "값" > 100' if "where" in options or "source_sql" in options else ""
    kept = ' WHERE "번호" <> 999' if "write_mode" in options else ""
    assert rows_of(source, ROWS + filtered) == rows_of(target, ROWS + kept)
    nothing_left(source, target)


def test_many_tables_are_copied_as_one_is(ends: tuple[Database, Database]) -> None:
    """The kind, for a batch: the table goes the ordinary way, and its neighbour by the sessions for small ones."""
    source, target = ends
    for each in ends:
        each.execute('CREATE TABLE "이웃" (a int PRIMARY KEY, r regclass)')
    source.execute(f"INSERT INTO \"이웃\" VALUES (1, 'pg_catalog.pg_class'); {THINGS['an index']}")
    specs = [spec(), CopySpec.of(source_table="public.이웃", target_table="public.이웃")]
    pipeline.copy_tables(specs, source.endpoint, target.endpoint)
    for query in (ROWS, 'SELECT * FROM "이웃"'):
        assert rows_of(source, query) == rows_of(target, query)


def test_names_in_sql_of_the_copy_still_need_their_schema(ends: tuple[Database, Database]) -> None:
    """The kind's border: what the copy itself names is looked up in pg_catalog alone."""
    source, target = ends
    for options in ({"source_table": None, "source_sql": 'SELECT * FROM "측점"'}, {"where": '"안"("값") > 0'}):
        with pytest.raises(PlanError, match="give names their schema"):
            pipeline.copy(spec(**options), source.endpoint, target.endpoint)


WORKS = {
    "an index": {"delete_insert", "truncate_insert"},
    "a partial index": {"delete_insert", "truncate_insert"},
    "statistics": {"delete_insert", "truncate_insert"},
    "a check": {"delta", "delete_insert", "truncate_insert"},
    "an index in plpgsql": {"delta", "delete_insert", "truncate_insert"},
}
"""The strategies that a target with such a thing leaves."""


@pytest.mark.parametrize("thing", THINGS)
def test_auto_takes_a_strategy_that_such_a_target_leaves(ends: tuple[Database, Database], thing: str) -> None:
    """The kind, for a target: `auto` publishes, and each refusal's hint names what works."""
    source, target = ends
    target.execute(THINGS[thing])
    report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert report.publish in WORKS[thing]
    for way in ("swap", "delta", "delete_insert", "truncate_insert"):
        source.execute('UPDATE "측점" SET "값" = "값" + 1')
        if way in WORKS[thing]:
            pipeline.copy(spec(publish=way), source.endpoint, target.endpoint)
            assert rows_of(source, ROWS) == rows_of(target, ROWS)
            continue
        with pytest.raises(SafeCopyError) as caught:
            pipeline.copy(spec(publish=way), source.endpoint, target.endpoint)
        assert not caught.value.retryable
        assert isinstance(caught.value, StageError) == ("plpgsql" in thing)
        assert "delete_insert" in str(caught.value)
        assert way == "delta" or "publish=delta" not in str(caught.value)


@pytest.mark.parametrize("major", [16, 18])
def test_a_function_that_has_lost_what_it_names_is_no_matter_of_the_search_path(
    database: MakeDatabase, major: int
) -> None:
    """The kind's border: what is found nowhere is refused, and `auto` still publishes what can be published."""
    source, target = database(major=16), database(major=major)
    source.execute('CREATE TABLE "측점" ("번호" int PRIMARY KEY, "값" int); INSERT INTO "측점" VALUES (1, 2)')
    target.execute(
        f"{_TABLE}; CREATE FUNCTION \"밖\"(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';"
        'CREATE INDEX ON "측점" ("밖"("값"))'
    )
    target.execute(
        'SET check_function_bodies = off; CREATE OR REPLACE FUNCTION "밖"(x int) RETURNS int LANGUAGE sql IMMUTABLE '
        "AS 'SELECT 없는.것($1)'"
    )
    for way in ("swap", "delta"):
        with pytest.raises(PlanError, match="not_built"):
            pipeline.copy(spec(publish=way), source.endpoint, target.endpoint)
    with pytest.raises(StageError) as caught:
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert not caught.value.retryable

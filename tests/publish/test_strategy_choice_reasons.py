"""The choice of a publish strategy: `auto` takes what works, and a plan that is not refused can be published."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, StageError
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase, MakeRole
from tests.support.content import rows_of
from tests.support.database import Database

ROWS = 'SELECT "번호", "금액" FROM "판매"'
_TABLE = 'CREATE TABLE "판매" ("번호" int PRIMARY KEY, "금액" int, "메모" text)'


def spec(**options: Any) -> CopySpec:
    return CopySpec.of(**{"source_table": "public.판매", "target_table": "public.판매"} | options)


@pytest.fixture(params=[16, 18])
def ends(request: pytest.FixtureRequest, database: MakeDatabase) -> tuple[Database, Database]:
    """A source of nine rows, and a target of which one is old, one changed, and one gone."""
    source, target = database(), database(major=request.param)
    for each in (source, target):
        each.execute(_TABLE)
    source.execute("INSERT INTO \"판매\" SELECT g, g * 10, '메모' FROM generate_series(1, 9) g")
    target.execute("INSERT INTO \"판매\" VALUES (1, 10, '메모'), (2, 0, '메모'), (99, 990, '메모')")
    return source, target


def refused(source: Database, target: Database, **options: Any) -> dict[str, str]:
    """Return the refusals of a plan, by code."""
    with pytest.raises(PlanError) as caught:
        pipeline.copy(spec(**options), source.endpoint, target.endpoint)
    return {each.code: f"{each.message} ({each.hint})" for each in caught.value.refusals}


_UNFIT = {
    "a filter on another column": 'CREATE PUBLICATION "발행" FOR TABLE "판매" WHERE ("금액" > 3)',
    "a list without the key": 'CREATE PUBLICATION "발행" FOR TABLE "판매" ("금액", "메모")',
    "a list, and all columns as identity": (
        'ALTER TABLE "판매" REPLICA IDENTITY FULL; CREATE PUBLICATION "발행" FOR TABLE "판매" ("번호", "금액")'
    ),
    "a filter and a list": 'CREATE PUBLICATION "발행" FOR TABLE "판매" ("번호", "금액") WHERE ("금액" > 3)',
    "a filter on what another index identifies": (
        'ALTER TABLE "판매" ALTER "금액" SET NOT NULL, ADD UNIQUE ("금액"), REPLICA IDENTITY USING INDEX "판매_금액_key";'
        'CREATE PUBLICATION "발행" FOR TABLE "판매" WHERE ("번호" > 3)'
    ),
}


@pytest.mark.parametrize("publication", _UNFIT.values(), ids=_UNFIT)
def test_a_publication_that_would_refuse_changes_is_seen_in_the_plan(
    ends: tuple[Database, Database], publication: str
) -> None:
    """The kind: a publication whose row filter or column list does not fit the replica identity refuses UPDATE and DELETE."""
    source, target = ends
    target.execute(publication)
    ways: list[dict[str, Any]] = [
        {"publish": "auto"},
        {"publish": "delta"},
        {"publish": "delete_insert"},
        {"write_mode": "upsert", "key_columns": ["번호"]},
    ]
    for options in ways:
        assert "발행" in refused(source, target, **options)["no_replica_identity"], options
    pipeline.copy(spec(publish="truncate_insert"), source.endpoint, target.endpoint)
    assert rows_of(source, ROWS) == rows_of(target, ROWS)


_FIT = {
    "a filter on the key": 'CREATE PUBLICATION "발행" FOR TABLE "판매" WHERE ("번호" > 3)',
    "a list with the key": 'CREATE PUBLICATION "발행" FOR TABLE "판매" ("번호", "금액")',
    "a filter, and all columns as identity": (
        'ALTER TABLE "판매" REPLICA IDENTITY FULL; CREATE PUBLICATION "발행" FOR TABLE "판매" WHERE ("금액" > 3)'
    ),
    "a filter, and only INSERT is sent": (
        'CREATE PUBLICATION "발행" FOR TABLE "판매" WHERE ("금액" > 3) WITH (publish = \'insert\')'
    ),
}


@pytest.mark.parametrize("publication", _FIT.values(), ids=_FIT)
def test_a_publication_that_sends_changes_is_no_reason_to_refuse(
    ends: tuple[Database, Database], publication: str
) -> None:
    """The kind's other side: what the server would send is copied."""
    source, target = ends
    target.execute(publication)
    for way in ("delta", "delete_insert"):
        pipeline.copy(spec(publish=way), source.endpoint, target.endpoint)
        assert rows_of(source, ROWS) == rows_of(target, ROWS)
        source.execute('UPDATE "판매" SET "금액" = "금액" + 1; DELETE FROM "판매" WHERE "번호" = 9')


@pytest.mark.parametrize("by_root", [True, False])
def test_the_filter_of_a_partitioned_table_counts_as_the_server_counts_it(target: Database, by_root: bool) -> None:
    """The kind, for partitions: the parent's filter holds where changes are sent in the parent's name, else the part's own."""
    parts = 'PARTITION BY RANGE ("번호"); CREATE TABLE "부분" PARTITION OF "판매" FOR VALUES FROM (0) TO (100)'
    target.execute(f'CREATE TABLE "원본" ("번호" int, "금액" int); INSERT INTO "원본" VALUES (1, 1); {_TABLE} {parts}')
    which = '"판매" WHERE ("금액" > 3)' if by_root else '"부분" WHERE ("금액" > 3), "판매"'
    target.execute(f'CREATE PUBLICATION "발행" FOR TABLE {which} WITH (publish_via_partition_root = {by_root})')
    assert "no_replica_identity" in refused(target, target, source_table="public.원본", columns=["번호", "금액"])
    if not by_root:  # the parent's name has no filter
        target.execute('ALTER PUBLICATION "발행" SET (publish_via_partition_root = true)')
        assert pipeline.copy(
            spec(source_table="public.원본", columns=["번호", "금액"]), target.endpoint, target.endpoint
        ).rows


def test_a_generated_column_that_is_not_sent_is_seen_in_the_plan(ends: tuple[Database, Database]) -> None:
    """The kind, from version 18 on: a replica identity may not contain a generated column that is not published."""
    source, target = ends
    target.execute('ALTER TABLE "판매" ADD "배" int GENERATED ALWAYS AS ("금액" * 2) STORED, REPLICA IDENTITY FULL')
    target.execute('CREATE PUBLICATION "발행" FOR ALL TABLES')
    if target.major < 18:
        pipeline.copy(spec(publish="delta"), source.endpoint, target.endpoint)
        return
    assert "no_replica_identity" in refused(source, target, publish="delta")
    target.execute('ALTER PUBLICATION "발행" SET (publish_generated_columns = stored)')
    pipeline.copy(spec(publish="delta"), source.endpoint, target.endpoint)
    assert rows_of(source, ROWS) == rows_of(target, ROWS)


@pytest.mark.parametrize(
    "rights",
    [
        'SELECT ("번호", "금액"), INSERT, UPDATE, DELETE',
        'SELECT ("번호", "금액", "메모"), INSERT, UPDATE, DELETE',
        'SELECT ("번호", "금액"), INSERT ("번호", "금액"), UPDATE ("금액"), DELETE',
        'SELECT ("번호", "금액"), INSERT ("번호", "금액"), DELETE',
    ],
)
def test_rights_on_columns_lead_to_a_strategy_that_they_are_enough_for(
    ends: tuple[Database, Database], role: MakeRole, rights: str
) -> None:
    """The kind: a right on some columns is not that on the table, which comparing rows by their place takes."""
    source, target = ends
    loader = role(target)
    target.execute(
        f'GRANT CREATE ON DATABASE "{target.name}" TO "{loader.role}"; GRANT {rights} ON "판매" TO "{loader.role}"'
    )
    options = {"columns": ["번호", "금액"]}
    report = pipeline.copy(spec(**options), source.endpoint, loader.endpoint)
    assert report.publish == "delete_insert"
    assert rows_of(source, ROWS) == rows_of(target, ROWS)
    assert "SELECT on the whole table" in refused(source, loader, publish="delta", **options)["privilege"]
    assert "privilege" in refused(source, loader, write_mode="upsert", key_columns=["번호"], **options)


@pytest.mark.parametrize("kind", ["PRIMARY KEY", "UNIQUE"])
@pytest.mark.parametrize("options", [{}, {"key_columns": ["방", "기간"]}])
def test_a_key_of_periods_is_told_from_none(target: Database, kind: str, options: dict[str, Any]) -> None:
    """The kind: a key WITHOUT OVERLAPS (version 18) is a key, but not one by which rows are equal."""
    shape = '("방" int4range NOT NULL, "기간" tsrange NOT NULL, "금액" int'
    target.execute(f'CREATE TABLE "판매" {shape}, CONSTRAINT "예약" {kind} ("방", "기간" WITHOUT OVERLAPS))')
    target.execute(
        f"CREATE TABLE \"원본\" {shape}); INSERT INTO \"원본\" VALUES ('[1,2)', '[2026-01-01,2026-02-01)', 5)"
    )
    told = refused(target, target, source_table="public.원본", write_mode="upsert", **options)["no_key"]
    assert "예약 is WITHOUT OVERLAPS" in told
    assert "primary key" not in told
    assert "no_key" in refused(target, target, source_table="public.원본", publish="delta", **options)
    for way in ("auto", "delete_insert"):
        pipeline.copy(spec(source_table="public.원본", publish=way), target.endpoint, target.endpoint)
        assert target.value('SELECT "금액" FROM "판매"') == 5


_NOT_VALID = {
    "a check": 'ALTER TABLE "판매" ADD CONSTRAINT "규칙" CHECK ("금액" < 50) NOT VALID',
    "a foreign key": (
        'CREATE TABLE "가격" (n int PRIMARY KEY); INSERT INTO "가격" SELECT g * 10 FROM generate_series(1, 4) g;'
        'ALTER TABLE "판매" ADD CONSTRAINT "규칙" FOREIGN KEY ("금액") REFERENCES "가격" NOT VALID'
    ),
    "a NOT NULL": 'ALTER TABLE "판매" ADD CONSTRAINT "규칙" NOT NULL "메모" NOT VALID',
}
"""Constraints that rows in the target break already, and new ones of the source."""


def _refuse_new_rows(source: Database, target: Database, constraint: str) -> None:
    if "NOT NULL" in constraint:
        for each in (source, target):
            each.execute('UPDATE "판매" SET "메모" = NULL WHERE "번호" IN (9, 99)')
    target.execute(constraint)


@pytest.mark.parametrize("constraint", _NOT_VALID.values(), ids=_NOT_VALID)
def test_a_constraint_for_new_rows_gives_one_answer_whatever_the_strategy(
    ends: tuple[Database, Database], constraint: str
) -> None:
    """The kind: a constraint that is NOT VALID binds rows that are written, and a swap writes all of them."""
    source, target = ends
    if "NOT NULL" in constraint and target.major < 18:
        pytest.skip("NOT NULL can be NOT VALID from version 18 on")
    _refuse_new_rows(source, target, constraint)
    for way in ("auto", "swap", "delta", "delete_insert", "truncate_insert"):
        if way == "swap" and "FOREIGN" in constraint:
            continue  # see below
        with pytest.raises(StageError) as caught:
            pipeline.copy(spec(publish=way), source.endpoint, target.endpoint)
        assert "규칙" in caught.value.message or "NOT NULL" in constraint, way
        assert (caught.value.sqlstate or "")[:2] == "23", way
        assert target.value('SELECT count(*) FROM "판매"') == 3
    source.execute('UPDATE "판매" SET "금액" = 10, "메모" = \'메모\'')
    for way in ("auto", "swap", "delta", "delete_insert"):
        pipeline.copy(spec(publish=way), source.endpoint, target.endpoint)
        assert rows_of(source, ROWS) == rows_of(target, ROWS)
        assert target.value("SELECT convalidated FROM pg_constraint WHERE conname = '규칙'") is False


def test_rows_that_broke_such_a_constraint_before_stay(ends: tuple[Database, Database]) -> None:
    """The kind's other side: `auto` writes only what differs, as the constraint is meant."""
    source, target = ends
    source.execute('UPDATE "판매" SET "금액" = 10; INSERT INTO "판매" VALUES (99, 990, \'메모\')')
    target.execute(_NOT_VALID["a check"])
    report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert report.publish == "delta"
    assert rows_of(source, ROWS) == rows_of(target, ROWS)


def test_a_swap_says_that_it_does_not_check_such_a_foreign_key(ends: tuple[Database, Database]) -> None:
    """The kind's border: to check a foreign key and forget that takes a lock that readers of the other table feel."""
    source, target = ends
    target.execute(_NOT_VALID["a foreign key"])
    plan = pipeline.plan(spec(publish="swap"), source.endpoint, target.endpoint)
    assert any("NOT VALID" in each and "규칙" in each for each in (*plan.reasons, *plan.warnings))

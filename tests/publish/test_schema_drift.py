"""Drift: what becomes of columns that only one side has; and what is left when adding them, or the publish after it, fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, Refusal, SafeCopyError, StageError, StageTimeoutError
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.support.customers import TABLE, fill, same, spec
from tests.support.database import Database

LONG = "가나다라마바사아자차카타파하거너더러머버서"  # 63 bytes
COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum)
FROM pg_attribute WHERE attrelid = '"영업"."고객"'::regclass AND attnum > 4 AND NOT attisdropped ORDER BY attnum
"""


@pytest.fixture
def drifted(filled: tuple[Database, Database]) -> tuple[Database, Database]:
    """The source has got a column more, which is never NULL there."""
    source, target = filled
    source.execute(
        f'ALTER TABLE {TABLE} ADD COLUMN "적립금" integer NOT NULL DEFAULT 100;'
        f"COMMENT ON COLUMN {TABLE}.\"적립금\" IS '쌓인 돈, 원''s'"
    )
    return source, target


def planned(source: Database, target: Database, **options: Any) -> CopyPlan:
    return pipeline.plan(spec(**options), source.endpoint, target.endpoint)


def only(code: str, source: Database, target: Database, **options: Any) -> Refusal:
    """The one refusal there is, of this code, with a next step."""
    found = planned(source, target, **options).refusals
    assert [each.code for each in found] == [code], [str(each) for each in found]
    assert found[0].hint
    return found[0]


def at_publish(do: Callable[[], Any]) -> Callable[[Progress], None]:
    """Do something once the rows are proven, right before anything is published."""

    def told(at: Progress) -> None:
        if at.stage == "publish":
            do()

    return told


# fail


def test_by_default_it_is_refused_with_the_statement_that_mends_it(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    found = only("column_extra", source, target)
    mend = 'ALTER TABLE "영업"."고객" ADD COLUMN "적립금" integer;'
    assert mend in found.hint
    assert "drift=add_columns" in found.hint
    target.execute(mend)
    assert planned(source, target).refusals == ()


@pytest.mark.parametrize("drift", ["fail", "ignore_extra", "add_columns"])
def test_a_column_only_the_target_has_is_refused_in_any_case(filled: tuple[Database, Database], drift: str) -> None:
    source, target = filled
    target.execute(f"ALTER TABLE {TABLE} ADD COLUMN \"메 모\" text DEFAULT '없음'")
    found = only("column_missing", source, target, drift=drift)
    assert "new rows would have its default there" in found.message
    into, out = 'ALTER TABLE "영업"."고객" ADD COLUMN "메 모" text;', 'ALTER TABLE "영업"."고객" DROP COLUMN "메 모";'
    assert into in found.hint
    assert out in found.hint
    assert planned(source, target, drift=drift, columns=["번호", "이름", "금액", "가입"]).refusals == ()
    source.execute(into)
    assert planned(source, target, drift=drift).refusals == ()


# ignore_extra


def test_what_only_the_source_has_is_left_out_and_told(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    report = pipeline.copy(spec(drift="ignore_extra", verify="full"), source.endpoint, target.endpoint)
    assert "영업.고객: column 적립금 integer of the source is left out" in report.warnings
    assert target.rows(COLUMNS) == []
    assert same(source, target, f'SELECT "번호", "이름", "금액", "가입" FROM {TABLE}')


def test_a_column_that_was_asked_for_is_not_left_out(drifted: tuple[Database, Database]) -> None:
    only("column_extra", *drifted, drift="ignore_extra", columns=["번호", "이름", "금액", "가입", "적립금"])


# add_columns


def test_what_only_the_source_has_is_added(drifted: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = drifted
    source.execute(
        f'ALTER TABLE {TABLE} ADD COLUMN "Mixed ""Case"".점" numeric(9,3)[] DEFAULT \'{{1.500}}\';'
        f'ALTER TABLE {TABLE} ADD COLUMN "{LONG}" varchar(7) COLLATE "C" DEFAULT \'길다\';'
        f"COMMENT ON COLUMN {TABLE}.\"{LONG}\" IS '63 바이트'"
    )
    report = pipeline.copy(spec(drift="add_columns", verify="full"), source.endpoint, target.endpoint)
    assert target.rows(COLUMNS) == [
        ("적립금", "integer", False, "쌓인 돈, 원's"),
        ('Mixed "Case".점', "numeric(9,3)[]", False, None),
        (LONG, "character varying(7)", False, "63 바이트"),
    ]
    assert target.value(f"SELECT collation_name FROM information_schema.columns WHERE column_name = '{LONG}'") == "C"
    assert same(source, target)
    assert "영업.고객: column 적립금 integer is added, and stays even if the publish fails" in report.warnings
    again = pipeline.copy(spec(drift="add_columns"), source.endpoint, target.endpoint)
    assert not [warning for warning in again.warnings if "is added" in warning]
    nothing_left(source, target)


@pytest.mark.parametrize("way", sorted(set(STRATEGIES) & {"swap", "delta", "delete_insert", "truncate_insert"}))
def test_every_way_publishes_into_the_column_that_was_added(drifted: tuple[Database, Database], way: str) -> None:
    source, target = drifted
    target.execute(f'CREATE VIEW "영업"."보기" AS SELECT * FROM {TABLE}; GRANT SELECT ON {TABLE} TO PUBLIC')
    report = pipeline.copy(spec(drift="add_columns", publish=way), source.endpoint, target.endpoint)
    assert (report.publish, report.rows) == (way, 2000)
    assert same(source, target)
    assert target.rows(COLUMNS) == [("적립금", "integer", False, "쌓인 돈, 원's")]
    assert target.value('SELECT count(*) FROM "영업"."보기"') == 2000


@pytest.mark.parametrize(
    "mode",
    [
        {"write_mode": "append", "append_key": "2026-11-20"},
        {"write_mode": "upsert"},
        {"write_mode": "incremental", "cursor_column": "번호"},
    ],
    ids=["append", "upsert", "incremental"],
)
def test_every_write_mode_adds_columns(drifted: tuple[Database, Database], mode: dict[str, Any]) -> None:
    source, target = drifted
    report = pipeline.copy(spec(drift="add_columns", **mode), source.endpoint, target.endpoint)
    assert report.inserted == 2000
    assert target.rows(f'SELECT count(*), sum("적립금") FROM {TABLE}') == [(2002, 200_000)]


def test_the_column_in_which_missing_rows_are_marked_is_not_the_sources(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    target.execute(f'ALTER TABLE {TABLE} ADD COLUMN "삭제" timestamptz')
    mode = {"write_mode": "upsert", "missing": "mark", "missing_column": "삭제"}
    pipeline.copy(spec(drift="add_columns", **mode), source.endpoint, target.endpoint)
    assert target.rows(f'SELECT count(*), count("삭제"), sum("적립금") FROM {TABLE}') == [(2002, 2, 200_000)]


def test_a_chosen_column_is_added_by_the_name_it_was_given(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    columns = {"번호": "번호", "이름": "이름", "적립금": "포인트 1"}
    pipeline.copy(spec(drift="add_columns", columns=columns), source.endpoint, target.endpoint)
    assert target.rows(COLUMNS) == [("포인트 1", "integer", False, "쌓인 돈, 원's")]
    assert target.value(f'SELECT count(*) FROM {TABLE} WHERE "포인트 1" = 100') == 2000


def test_the_plan_shows_it(drifted: tuple[Database, Database]) -> None:
    plan = planned(*drifted, drift="add_columns", publish="delete_insert")
    steps = [(step.stage, step.sql, step.lock) for step in plan.steps()]
    add = ("publish", 'ALTER TABLE "영업"."고객" ADD COLUMN "적립금" integer', "ACCESS EXCLUSIVE")
    told = ("publish", 'COMMENT ON COLUMN "영업"."고객"."적립금" IS \'쌓인 돈, 원\'\'s\'', "ACCESS EXCLUSIVE")
    assert steps[3:5] == [add, told]
    assert steps[5][1].startswith("DELETE")
    assert '"적립금" integer' in steps[0][1]
    assert drifted[1].rows(COLUMNS) == []


def test_partitions_get_it_too_and_cannot_be_given_it_alone(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    target.execute(
        f'CREATE TABLE "영업"."전체" (LIKE {TABLE}) PARTITION BY RANGE ("번호");'
        'CREATE TABLE "영업"."부분" PARTITION OF "영업"."전체" DEFAULT'
    )
    found = only("column_unaddable", source, target, drift="add_columns", target_table="영업.부분")
    assert "is a partition" in found.message
    pipeline.copy(spec(drift="add_columns", target_table="영업.전체"), source.endpoint, target.endpoint)
    assert target.value('SELECT sum("적립금") FROM "영업"."부분"') == 200_000


def test_a_query_adds_columns_as_well(filled: tuple[Database, Database]) -> None:
    source, target = filled
    query = f'SELECT *, "번호"::int % 3 AS "나머지" FROM {TABLE}'
    pipeline.copy(spec(drift="add_columns", source_table=None, source_sql=query), source.endpoint, target.endpoint)
    assert target.rows(COLUMNS) == [("나머지", "integer", False, None)]


# What cannot be added


@pytest.mark.parametrize(
    "there, type_, code, told",
    [
        ("", "TYPE 영업.등급 AS ENUM ('금')", "type_missing", "there is no type"),
        ("CREATE TYPE 영업.등급 AS ENUM ('은')", "TYPE 영업.등급 AS ENUM ('금')", "type_differs", "made differently"),
        (
            "CREATE DOMAIN 영업.등급 AS int CHECK (VALUE > 0)",
            "DOMAIN 영업.등급 AS int",
            "column_unaddable",
            "has rules",
        ),
    ],
)
def test_its_type_must_be_there_and_the_same(
    filled: tuple[Database, Database], there: str, type_: str, code: str, told: str
) -> None:
    source, target = filled
    source.execute(f"CREATE {type_}; ALTER TABLE {TABLE} ADD COLUMN 등급 영업.등급")
    if there:
        target.execute(there)
    found = only(code, source, target, drift="add_columns")
    assert found.column == "등급"
    assert told in found.message
    assert "영업" in found.message


def test_its_name_must_fit_the_targets_encoding(database: MakeDatabase) -> None:
    korean, target = database(encoding="EUC_KR", locale="C"), database(encoding="UTF8")
    name = LONG + "어저처커터퍼허고"  # 58 bytes in EUC_KR
    for each in (korean, target):
        each.execute(f'CREATE SCHEMA 영업; CREATE TABLE {TABLE} ("번호" int)')
    korean.execute(f'ALTER TABLE {TABLE} ADD COLUMN "{name}" int; INSERT INTO {TABLE} VALUES (1, 2)')
    assert "87 bytes" in only("name_too_long", korean, target, drift="add_columns").message
    target.execute(f'ALTER TABLE {TABLE} ADD COLUMN "똠" int; INSERT INTO {TABLE} VALUES (1, 2)')
    assert only("name_not_in_encoding", target, korean, drift="add_columns", columns=["번호", "똠"]).column == "똠"


def test_system_columns_have_their_names_already(filled: tuple[Database, Database]) -> None:
    source, target = filled
    query = f"SELECT *, ctid FROM {TABLE}"
    found = only("column_unaddable", source, target, drift="add_columns", source_table=None, source_sql=query)
    assert found.column == "ctid"


def test_only_the_tables_owner_can_be_asked_to_add(drifted: tuple[Database, Database], role: MakeRole) -> None:
    source, target = drifted
    writer, owner = role(target), role(target, "NOLOGIN")
    target.execute(
        f'GRANT CREATE ON DATABASE "{target.name}" TO "{writer.role}"; GRANT USAGE ON SCHEMA "영업" TO "{writer.role}";'
        f'GRANT ALL ON {TABLE} TO "{writer.role}"; ALTER TABLE {TABLE} OWNER TO "{owner.role}"'
    )
    found = only("privilege", source, writer, drift="add_columns", publish="delete_insert")
    assert f"lacks ownership, which adding a column takes: membership in {owner.role}" in found.message
    target.execute(f'GRANT "{owner.role}" TO "{writer.role}"; GRANT CREATE ON SCHEMA "영업" TO "{owner.role}"')
    pipeline.copy(spec(drift="add_columns", publish="delete_insert"), source.endpoint, writer.endpoint)
    assert same(source, target)


def test_subscribers_are_thought_of(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    target.execute(f"CREATE PUBLICATION 구독 FOR TABLE {TABLE}")
    plan = planned(source, target, drift="add_columns")
    assert "영업.고객 is published: subscribers stop until they have the new columns too" in plan.warnings
    target.execute("DROP PUBLICATION 구독")


# When something goes wrong


def test_the_column_stays_empty_when_the_publish_fails_and_the_next_run_finds_it(
    drifted: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = drifted
    target.execute(f'ALTER TABLE {TABLE} ADD CONSTRAINT 작은_번호 CHECK ("번호" < 1500)')
    asked = spec(drift="add_columns", publish="delete_insert")
    with pytest.raises(StageError, match="작은_번호") as caught:
        pipeline.copy(asked, source.endpoint, target.endpoint)
    assert caught.value.__notes__ == ["영업.고객 has been given the column 적립금 before that, and keeps it, empty"]
    assert target.rows(f'SELECT "번호", "적립금" FROM {TABLE} ORDER BY 1') == [(-2, None), (-1, None)]
    target.execute(f"ALTER TABLE {TABLE} DROP CONSTRAINT 작은_번호")
    assert planned(source, target).refusals == ()
    pipeline.copy(asked, source.endpoint, target.endpoint)
    assert same(source, target)
    nothing_left(source, target)


def test_a_run_that_has_lost_its_lock_adds_nothing(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    steal = "UPDATE safecopy.lock SET token = token + 1, lease_id = gen_random_uuid()"
    with pytest.raises(SafeCopyError) as caught:
        pipeline.copy(
            spec(drift="add_columns", publish="delete_insert"),
            source.endpoint,
            target.endpoint,
            progress=at_publish(lambda: target.execute(steal)),
        )
    assert type(caught.value).__name__ in {"LockLostError", "FencedOutError"}
    assert target.rows(COLUMNS) == []


def test_a_column_that_somebody_else_adds_meanwhile_is_left_to_them(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    other = f'ALTER TABLE {TABLE} ADD COLUMN "적립금" text'
    with pytest.raises(PlanError, match="not the table it was") as caught:
        pipeline.copy(
            spec(drift="add_columns", publish="delete_insert"),
            source.endpoint,
            target.endpoint,
            progress=at_publish(lambda: target.execute(other)),
        )
    assert caught.value.retryable
    assert target.rows(COLUMNS) == [("적립금", "text", False, None)]
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2


def test_readers_do_not_queue_behind_it(drifted: tuple[Database, Database]) -> None:
    """Somebody reads in an open transaction: the column waits, in steps; other readers read on."""
    source, target = drifted
    fill(source, 0)
    with target.connect() as holder:
        holder.execute("BEGIN")
        holder.execute(f"LOCK TABLE {TABLE} IN ACCESS SHARE MODE".encode())
        waited: list[float] = []

        def read() -> None:
            with target.connect() as reader:
                asking = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
                deadline = time.monotonic() + 60
                while not reader.execute(asking).fetchall()[0][0]:
                    assert time.monotonic() < deadline
                for _ in range(20):
                    began = time.monotonic()
                    assert reader.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchall() == [(2,)]
                    waited.append(time.monotonic() - began)
            holder.rollback()

        thread = threading.Thread(target=read)
        thread.start()
        report = pipeline.copy(spec(drift="add_columns", publish="delete_insert"), source.endpoint, target.endpoint)
        thread.join()
    assert report.rows == 2000
    assert len(waited) == 20
    assert max(waited) < 2  # a step is 0.2 s; the rest is a loaded machine


def test_a_table_that_is_held_too_long_gets_no_column(drifted: tuple[Database, Database]) -> None:
    source, target = drifted
    asked = spec(drift="add_columns", publish="delete_insert", timeouts=Timeouts(publish=1.0))
    with target.connect() as holder:
        holder.execute("SET application_name = 'slow report'; BEGIN")
        holder.execute(f"LOCK TABLE {TABLE} IN ACCESS SHARE MODE".encode())
        with pytest.raises(StageTimeoutError, match="slow report"):
            pipeline.copy(asked, source.endpoint, target.endpoint)
        holder.rollback()
    assert target.rows(COLUMNS) == []

"""The straight line, from two databases to a report."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError, VerifyError
from airflow_provider_safecopy.spec import CopySpec, Progress
from tests.conftest import MakeDatabase, NothingLeft
from tests.support.content import rows_of
from tests.support.customers import SHAPE, TABLE, fill, same, spec
from tests.support.database import PRESENT, Database


@pytest.mark.sweep(4)
@pytest.mark.parametrize("publish", ["delete_insert", "truncate_insert"])
@pytest.mark.parametrize("verify", ["counts", "full"])
@pytest.mark.parametrize("transfer", ["sequential", "chunked"])
def test_a_copy_replaces_the_rows(
    filled: tuple[Database, Database], nothing_left: NothingLeft, transfer: str, verify: str, publish: str
) -> None:
    source, target = filled
    report = pipeline.copy(
        spec(transfer=transfer, verify=verify, publish=publish), source.endpoint, target.endpoint, owner="시험"
    )
    assert same(source, target)
    assert (report.status, report.rows, report.previous_rows) == ("published", 2000, 2)
    assert (report.transfer, report.publish, report.format) == (transfer, publish, "text")
    assert (report.content_hash is not None) == (verify == "full")
    assert [stage.stage for stage in report.stages] == ["export", "import", "verify", "publish", "analyze"]
    nothing_left(source, target)


@pytest.mark.parametrize("transfer", ["sequential", "chunked"])
@pytest.mark.parametrize("form", ["text", "binary"])
@pytest.mark.parametrize("majors", [(one, other) for one in PRESENT for other in PRESENT])
def test_every_major_reaches_every_other(
    database: MakeDatabase, nothing_left: NothingLeft, majors: tuple[int, int], form: str, transfer: str
) -> None:
    source, target = (database(major=major) for major in majors)
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 500)
    report = pipeline.copy(spec(format=form, transfer=transfer, verify="full"), source.endpoint, target.endpoint)
    assert report.format == form
    assert same(source, target)
    nothing_left(source, target)


@pytest.mark.pair(18, 18)
def test_auto_takes_binary_between_equal_majors_and_says_why(filled: tuple[Database, Database]) -> None:
    source, target = filled
    report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert report.format == "binary"
    assert "same major (18)" in report.reasons[0]
    assert same(source, target)


def test_the_receipt_is_committed_with_the_rows(filled: tuple[Database, Database]) -> None:
    source, target = filled
    report = pipeline.copy(spec(), source.endpoint, target.endpoint, owner="배치|dag|run")
    ((token, attempt, owner, rows, previous, proof),) = target.rows(
        "SELECT token, attempt::text, owner_key, row_count, previous_rows, proof FROM safecopy.receipt"
    )
    assert (token, attempt, owner, rows, previous) == (report.token, report.attempt, "배치|dag|run", 2000, 2)
    assert proof["rows"] == {"exported": 2000, "imported": 2000, "staging": 2000}
    assert proof["digest"] == {"exported": report.digest, "imported": report.digest}


def test_tokens_only_grow(filled: tuple[Database, Database]) -> None:
    source, target = filled
    tokens = [pipeline.copy(spec(), source.endpoint, target.endpoint).token for _ in range(3)]
    assert tokens == [1, 2, 3]


def test_the_stages_are_logged_in_order(filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture) -> None:
    source, target = filled
    caplog.set_level(logging.INFO, "airflow_provider_safecopy")
    report = pipeline.copy(spec(transfer="sequential"), source.endpoint, target.endpoint)
    told = [record.getMessage() for record in caplog.records if "PID" in record.getMessage()]
    export, load = (stage.pid for stage in report.stages[:2])
    assert [line.split(":")[0] for line in told] == [
        f"export started (PID {export})",
        "export done",
        f"import started (PID {load})",
        "import done",
    ]
    assert f"{report.rows} rows, {report.bytes} bytes" in told[1]


def test_progress_goes_through_the_stages_and_knows_what_to_expect(filled: tuple[Database, Database]) -> None:
    source, target = filled
    seen: list[Progress] = []
    pipeline.copy(spec(), source.endpoint, target.endpoint, progress=seen.append)
    stages = list(dict.fromkeys(each.stage for each in seen))
    assert stages == ["export", "import", "verify", "publish"]
    assert any(each.expected_rows for each in seen)
    assert seen[-1].rows == 2000


def test_the_report_is_plain_json(filled: tuple[Database, Database]) -> None:
    source, target = filled
    report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert json.loads(json.dumps(report.as_dict()))["stages"][0]["stage"] == "export"


def test_a_plan_touches_nothing(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    before = rows_of(target, f"SELECT * FROM {TABLE}")
    plan = pipeline.plan(spec(), source.endpoint, target.endpoint)
    assert not plan.refusals
    stages = [step.stage for step in plan.steps()]
    assert (stages[:3], stages[-1]) == (["import", "export", "import"], "publish")
    assert rows_of(target, f"SELECT * FROM {TABLE}") == before
    assert target.value("SELECT to_regnamespace('safecopy') IS NULL")
    nothing_left(source, target)


def test_columns_are_chosen_reordered_and_renamed(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute('CREATE TABLE "요약" ("성명" varchar(40), "식별자" bigint, "비고" text DEFAULT \'없음\')')
    pipeline.copy(
        spec(target_table="요약", columns={"이름": "성명", "번호": "식별자"}, where='"번호" <= 10'),
        source.endpoint,
        target.endpoint,
    )
    wanted = f'SELECT "이름", "번호", \'없음\'::text FROM {TABLE} WHERE "번호" <= 10'
    assert rows_of(source, wanted) == rows_of(target, 'SELECT * FROM "요약"')


SOURCES = {
    "view": f'CREATE VIEW "원천" AS SELECT * FROM {TABLE}',
    "materialized view": f'CREATE MATERIALIZED VIEW "원천" AS SELECT * FROM {TABLE}',
    "partitioned table": f"""
        CREATE TABLE "원천" (LIKE {TABLE}) PARTITION BY RANGE ("번호");
        CREATE TABLE "원천_1" PARTITION OF "원천" FOR VALUES FROM (MINVALUE) TO (1000);
        CREATE TABLE "원천_2" PARTITION OF "원천" FOR VALUES FROM (1000) TO (MAXVALUE);
        INSERT INTO "원천" SELECT * FROM {TABLE}""",
    "parent of inheriting tables": f"""
        CREATE TABLE "원천" (LIKE {TABLE}); CREATE TABLE "원천_1" () INHERITS ("원천");
        INSERT INTO "원천" SELECT * FROM {TABLE} WHERE "번호" < 500;
        INSERT INTO "원천_1" SELECT * FROM {TABLE} WHERE "번호" >= 500""",
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_is_copied_whole(filled: tuple[Database, Database], kind: str) -> None:
    source, target = filled
    source.execute(SOURCES[kind])
    pipeline.copy(spec(source_table="public.원천", verify="full"), source.endpoint, target.endpoint)
    assert same(source, target)


def test_a_foreign_table_is_a_source(database: MakeDatabase, filled: tuple[Database, Database]) -> None:
    source, target = filled
    near = database(major=15)  # the wheel's servers come without postgres_fdw
    password = conninfo_to_dict(source.conninfo)["password"]
    near.execute(
        "CREATE EXTENSION postgres_fdw;"
        f"CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{source.server.port}', "
        f"dbname '{source.name}');"
        f"CREATE USER MAPPING FOR CURRENT_USER SERVER there OPTIONS (user 'postgres', password '{password}');"
        'CREATE FOREIGN TABLE "먼_고객" ("번호" bigint, "이름" varchar(40), "금액" numeric(12,2), "가입" timestamptz) '
        "SERVER there OPTIONS (schema_name '영업', table_name '고객')"
    )
    pipeline.copy(spec(source_table="public.먼_고객"), near.endpoint, target.endpoint)
    assert same(source, target)


def test_a_query_is_a_source_and_may_end_in_a_semicolon_or_a_comment(filled: tuple[Database, Database]) -> None:
    source, target = filled
    query = f'SELECT "번호", upper("이름")::varchar(40) AS "이름", "금액", "가입" FROM {TABLE} WHERE "번호" % 2 = 0'
    for text in (query, f"{query};\n", f"{query} -- 짝수만"):
        pipeline.copy(
            CopySpec.of(source_sql=text, target_table="영업.고객", verify="full"), source.endpoint, target.endpoint
        )
        assert rows_of(source, query) == rows_of(target, f"SELECT * FROM {TABLE}")


def test_an_empty_query_is_refused_after_the_export_and_changes_nothing(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    query = CopySpec.of(source_sql=f"SELECT * FROM {TABLE} WHERE false", target_table="영업.고객")
    with pytest.raises(VerifyError, match="no rows"):
        pipeline.copy(query, source.endpoint, target.endpoint)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)


def test_an_empty_source_empties_the_target_when_that_is_meant(filled: tuple[Database, Database]) -> None:
    source, target = filled
    source.execute(f"TRUNCATE {TABLE}")
    report = pipeline.copy(spec(min_rows=0), source.endpoint, target.endpoint)
    assert (report.rows, report.previous_rows) == (0, 2)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 0


def test_what_changed_on_the_source_meanwhile_is_not_seen(filled: tuple[Database, Database]) -> None:
    source, target = filled
    before = rows_of(source, f"SELECT * FROM {TABLE}")

    def disturb(at: Progress) -> None:
        if at.stage == "export":
            source.execute(f'DELETE FROM {TABLE} WHERE "번호" < 1000')

    pipeline.copy(spec(verify="full"), source.endpoint, target.endpoint, progress=disturb)
    assert rows_of(target, f"SELECT * FROM {TABLE}") == before


@pytest.mark.parametrize("stage", ["export", "import", "verify", "publish"])
@pytest.mark.parametrize("transfer", ["sequential", "chunked"])
def test_an_abort_at_any_stage_changes_nothing_and_leaves_nothing(
    filled: tuple[Database, Database], nothing_left: NothingLeft, transfer: str, stage: str
) -> None:
    source, target = filled
    fill_more = f"INSERT INTO {TABLE} SELECT -g - 10, repeat('가', 39), g, now() FROM generate_series(1, 100000) g"
    source.execute(fill_more)
    abort = AbortSwitch()

    def stop(at: Progress) -> None:
        if at.stage == stage:
            abort.throw("시험이 멈춤")

    with pytest.raises(AbortedError, match="시험이 멈춤"):
        pipeline.copy(spec(transfer=transfer), source.endpoint, target.endpoint, abort=abort, progress=stop)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).rows == 102000


def test_an_abort_from_another_thread_ends_a_publish_that_waits_in_the_server(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    target.execute(
        "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(60); RETURN NEW; END$$;"
        f"CREATE TRIGGER doze BEFORE INSERT ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION doze()"
    )
    abort = AbortSwitch()

    def stop(at: Progress) -> None:
        if at.stage == "publish":
            threading.Timer(0.5, abort.throw, ["시험이 멈춤"]).start()

    with pytest.raises(AbortedError):
        pipeline.copy(spec(), source.endpoint, target.endpoint, abort=abort, progress=stop)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)


@pytest.mark.parametrize("copies", ["copy", "copy_tables"])
def test_an_abort_while_the_schema_is_made_is_told_as_what_it_is(
    filled: tuple[Database, Database], nothing_left: NothingLeft, copies: str
) -> None:
    """Found by a test that met it by chance: it was told as a schema that cannot be made."""
    source, target = filled
    abort, started = AbortSwitch(), time.monotonic()
    asked: Any = {"copy": spec(), "copy_tables": [spec()]}[copies]
    with target.connect() as first:
        first.execute("SELECT pg_advisory_lock(hashtextextended('safecopy.schema', 0))")
        threading.Timer(0.5, abort.throw, ["시험이 멈춤"]).start()
        with pytest.raises(AbortedError, match="시험이 멈춤"):
            getattr(pipeline, copies)(asked, source.endpoint, target.endpoint, abort=abort)
    assert time.monotonic() - started < 40
    assert target.value("SELECT to_regnamespace('safecopy') IS NULL")
    nothing_left(source, target)


def test_an_error_from_the_progress_callback_ends_the_copy_cleanly(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled

    def fail(at: Progress) -> None:
        raise RuntimeError(at.stage)

    with pytest.raises(RuntimeError):
        pipeline.copy(spec(), source.endpoint, target.endpoint, progress=fail)
    nothing_left(source, target)


def test_staging_of_a_dead_run_is_swept_and_that_of_a_living_one_is_not(filled: tuple[Database, Database]) -> None:
    source, target = filled
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    target.execute(
        'CREATE UNLOGGED TABLE safecopy."고객__safecopy_1_dddddddd" (); CREATE UNLOGGED TABLE safecopy."고객__safecopy_1_aaaaaaaa" ()'
    )
    with psycopg.connect(target.conninfo, application_name="safecopy:aaaaaaaa-0000-0000-0000-000000000000"):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
        left = target.rows("SELECT relname::text FROM pg_class WHERE relname ~ '__safecopy_' AND relkind = 'r'")
    assert left == [("고객__safecopy_1_aaaaaaaa",)]

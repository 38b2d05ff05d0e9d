"""Incremental: what lies beyond the watermark is read and written by key, and the watermark moves with the rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Progress
from tests.conftest import MakeDatabase, NothingLeft
from tests.support.content import rows_of
from tests.support.database import Database

NAME = '"영업"."주문 내역"'
TABLE = ("영업", "주문 내역")
SHAPE = f"""
CREATE SCHEMA "영업";
CREATE TABLE {NAME} ("번호" bigint PRIMARY KEY, "내용" text, "변경" timestamptz, "순번" int, "날짜" date, "점" numeric);
"""
DAYS = "'2026-11-19 09:00+09'::timestamptz + (g - 10) * interval '1 day'"


@pytest.fixture
def orders(source: Database, target: Database) -> tuple[Database, Database]:
    """Ten orders in the source, changed on ten days up to the 19th; an empty target."""
    for database in (source, target):
        database.execute(SHAPE)
    put(source, *range(1, 11))
    return source, target


def put(database: Database, *numbers: int) -> None:
    """Orders of that number, each changed on its day: number 10 on the 19th."""
    database.execute(
        f"INSERT INTO {NAME} SELECT g, '내용 ' || g, {DAYS}, g, ({DAYS})::date, g FROM unnest(%s::int[]) g",
        [list(numbers)],
    )


def spec(**options: Any) -> CopySpec:
    asked = {"source_table": TABLE, "target_table": TABLE, "write_mode": "incremental", "cursor_column": "변경"}
    return CopySpec.of(**asked | options)


def copy(databases: tuple[Database, Database], **options: Any) -> CopyReport:
    source, target = databases
    return pipeline.copy(spec(**options), source.endpoint, target.endpoint)


def refused(databases: tuple[Database, Database], **options: Any) -> list[tuple[str, str]]:
    """The codes of what is refused, each with its hint."""
    source, target = databases
    plan = pipeline.plan(spec(**options), source.endpoint, target.endpoint)
    return [(each.code, each.hint) for each in plan.refusals]


def same(databases: tuple[Database, Database]) -> bool:
    source, target = databases
    return rows_of(source, f"TABLE {NAME}") == rows_of(target, f"TABLE {NAME}")


# From run to run


def test_the_first_run_reads_everything_and_the_next_what_has_changed(
    orders: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = orders
    first = copy(orders)
    assert (first.status, first.publish, first.inserted) == ("published", "upsert", 10)
    assert first.watermark == {
        "cursor_column": "변경",
        "old": None,
        "new": "2026-11-19 00:00:00+00",
        "start": None,
        "end": None,
    }
    put(source, 11, 12)
    source.execute(f'UPDATE {NAME} SET "내용" = \'고침\', "변경" = \'2026-11-22\' WHERE "번호" = 3')
    second = copy(orders)
    assert (second.inserted, second.updated, second.unchanged) == (2, 1, 1), "the row at the watermark is read again"
    assert second.watermark is not None
    assert (second.watermark["old"], second.watermark["new"]) == ("2026-11-19 00:00:00+00", "2026-11-22 00:00:00+00")
    assert same(orders)
    ((value, kind, token),) = target.rows("SELECT value, type, token FROM safecopy.watermark")
    assert (value, kind, token) == ("2026-11-22 00:00:00+00", "timestamp with time zone", second.token)
    ((mode, mark, inserted),) = target.rows(
        "SELECT write_mode, watermark, inserted FROM safecopy.receipt WHERE token = %s", [second.token]
    )
    assert (mode, mark, inserted) == ("incremental", second.watermark, 2)
    nothing_left(source, target)


def test_with_nothing_new_the_watermark_stays(orders: tuple[Database, Database]) -> None:
    copy(orders)
    again = copy(orders)
    assert (again.inserted, again.updated, again.unchanged) == (0, 0, 1)
    assert again.watermark is not None
    assert again.watermark["old"] == again.watermark["new"]


def test_an_empty_source_is_no_error_and_leaves_no_watermark(orders: tuple[Database, Database]) -> None:
    source, target = orders
    source.execute(f"DELETE FROM {NAME}")
    assert copy(orders).inserted == 0
    assert target.value("SELECT count(*) FROM safecopy.watermark") == 0
    put(source, 1)
    assert copy(orders).inserted == 1


@pytest.mark.parametrize(
    "column, lookback, start",
    [
        ("변경", "2 days", "2026-11-17 00:00:00+00"),
        ("날짜", "36 hours", "2026-11-17"),
        ("순번", 3, "7"),
        ("순번", "2.5", "7"),
        ("번호", "9223372036854775807000", "-9223372036854775808"),
        ("점", "0.5", "9.5"),
    ],
)
def test_lookback_reads_again_what_may_have_come_late(
    orders: tuple[Database, Database], column: str, lookback: object, start: str
) -> None:
    source, _ = orders
    source.execute(f'DELETE FROM {NAME} WHERE "번호" = 9')
    copy(orders, cursor_column=column)
    put(source, 9)  # late: its cursor is behind the watermark
    assert copy(orders, cursor_column=column).inserted == 0
    report = copy(orders, cursor_column=column, lookback=lookback)
    assert report.watermark is not None
    assert report.watermark["start"] == start
    assert report.inserted == (0 if start == "9.5" else 1)
    (why,) = [reason for reason in report.reasons if reason.startswith("incremental")]
    assert f"from {start}" in why
    assert f"less {lookback}" in why


def test_the_plan_shows_what_would_be_read_and_touches_nothing(orders: tuple[Database, Database]) -> None:
    source, target = orders
    copy(orders)
    before = target.rows("TABLE safecopy.watermark")
    plan = pipeline.plan(spec(lookback="2 days", where='"번호" > 0 OR false'), source.endpoint, target.endpoint)
    (fresh,) = [reason for reason in plan.reasons if reason.startswith("incremental")]
    assert fresh == "incremental of everything: no watermark yet", "another where is another origin"
    plan = pipeline.plan(spec(lookback="2 days"), source.endpoint, target.endpoint)
    (export,) = [step.sql for step in plan.steps() if step.stage == "export"]
    assert '"변경" >= \'2026-11-17 00:00:00+00\'::timestamp with time zone OR "변경" IS NULL' in export
    assert target.rows("TABLE safecopy.watermark") == before


def test_rows_without_a_cursor_are_read_each_time(orders: tuple[Database, Database]) -> None:
    source, _ = orders
    copy(orders)
    source.execute(f"INSERT INTO {NAME} VALUES (100, '언제인지 모름', NULL)")
    assert copy(orders).inserted == 1
    source.execute(f'UPDATE {NAME} SET "내용" = \'아직 모름\' WHERE "번호" = 100')
    assert copy(orders).updated == 1
    assert same(orders)


def test_values_without_end_do_not_become_the_watermark(orders: tuple[Database, Database]) -> None:
    source, _ = orders
    source.execute(
        f"INSERT INTO {NAME} VALUES (100, '영원히', 'infinity', 1, 'infinity', 'NaN'), "
        "(101, '', '-infinity', 1, '-infinity', '-Infinity'), (102, '', NULL, 1, NULL, 'Infinity')"
    )
    for column, mark in (("변경", "2026-11-19 00:00:00+00"), ("날짜", "2026-11-19"), ("점", "10")):
        report = copy(orders, cursor_column=column)
        assert report.watermark is not None
        assert report.watermark["new"] == mark
    put(source, 11)
    report = copy(orders, cursor_column="점")
    assert (report.inserted, report.unchanged) == (1, 3), "10 itself, Infinity and NaN"
    assert same(orders)


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Asia/Seoul", "America/New_York"])
def test_settings_of_a_role_do_not_shift_the_watermark(orders: tuple[Database, Database], zone: str) -> None:
    source, target = orders
    for database in orders:
        database.execute(f"ALTER DATABASE \"{database.name}\" SET TimeZone = '{zone}'")
        database.execute(f"ALTER DATABASE \"{database.name}\" SET DateStyle = 'SQL, DMY'")
    source.execute(f'ALTER TABLE {NAME} ADD COLUMN "현지" timestamp(3); UPDATE {NAME} SET "현지" = "변경"')
    target.execute(f'ALTER TABLE {NAME} ADD COLUMN "현지" timestamp(3)')
    for column in ("변경", "현지", "날짜"):
        copy(orders, cursor_column=column)
        report = copy(orders, cursor_column=column)
        assert report.watermark is not None
        assert report.watermark["old"] == report.watermark["new"]
        assert report.unchanged == 1


# An origin, and no other


def test_other_origins_have_watermarks_of_their_own(orders: tuple[Database, Database], database: MakeDatabase) -> None:
    source, target = orders
    copy(orders)
    branch = database(major=source.major)
    branch.execute(SHAPE)
    put(branch, 1, 2)
    others: list[tuple[Database, dict[str, Any]]] = [
        (source, {"where": '"번호" > 0'}),
        (source, {"cursor_column": "순번"}),
        (source, {"columns": ["번호", "변경"]}),
        (source, {"source_table": None, "source_sql": f"TABLE {NAME}"}),
        (branch, {}),
    ]
    for other, options in others:
        report = copy((other, target), **options)
        assert report.watermark is not None
        assert report.watermark["old"] is None, options
    assert target.value("SELECT count(*) FROM safecopy.watermark") == 6
    report = copy(orders)
    assert report.watermark is not None
    assert report.watermark["old"] == "2026-11-19 00:00:00+00"


MADE_ANEW = {
    "the source's table": (
        "source",
        f'ALTER TABLE {NAME} RENAME TO "옛"; CREATE TABLE {NAME} (LIKE "영업"."옛" INCLUDING ALL)',
    ),
    "the target's table": (
        "target",
        f'ALTER TABLE {NAME} RENAME TO "옛"; CREATE TABLE {NAME} (LIKE "영업"."옛" INCLUDING ALL)',
    ),
    "the target's rows": ("target", f"TRUNCATE {NAME}"),
    "the cursor's type": ("both", f'ALTER TABLE {NAME} ALTER "순번" TYPE bigint'),
}


@pytest.mark.parametrize("what", MADE_ANEW)
def test_what_was_made_anew_is_read_from_the_start(orders: tuple[Database, Database], what: str) -> None:
    source, target = orders
    copy(orders, cursor_column="순번")
    where, change = MADE_ANEW[what]
    for database, name in ((source, "source"), (target, "target")):
        if where in {name, "both"}:
            database.execute(change)
    if where == "source":
        put(source, 1, 2, 3)  # what begins to count anew lies behind the watermark
    report = copy(orders, cursor_column="순번")
    assert report.watermark is not None
    assert report.watermark["start"] is None
    (why,) = [reason for reason in report.reasons if reason.startswith("incremental")]
    assert "10 does not count: " in why
    assert report.watermark["new"] == ("3" if where == "source" else "10")
    assert copy(orders, cursor_column="순번").unchanged == 1


def test_a_view_defined_anew_is_read_from_the_start(orders: tuple[Database, Database]) -> None:
    source, _ = orders
    view = {"source_table": ("영업", "보기"), "cursor_column": "순번"}
    source.execute(f'CREATE VIEW "영업"."보기" AS SELECT * FROM {NAME} WHERE "번호" <> 4')
    assert copy(orders, **view).inserted == 9
    source.execute(f'CREATE OR REPLACE VIEW "영업"."보기" AS SELECT * FROM {NAME}')
    assert copy(orders, **view).inserted == 1
    assert same(orders)


def test_rows_replaced_by_another_copy_are_read_again(orders: tuple[Database, Database]) -> None:
    source, target = orders
    copy(orders)
    part = CopySpec.of(source_table=TABLE, target_table=TABLE, where='"번호" = 1')
    pipeline.copy(part, source.endpoint, target.endpoint)
    assert target.value("SELECT count(*) FROM safecopy.watermark") == 0
    assert copy(orders).inserted == 9
    assert same(orders)


def test_a_source_that_was_set_back_is_read_from_the_start_by_the_run_after(orders: tuple[Database, Database]) -> None:
    source, target = orders
    copy(orders)
    source.execute(f'DELETE FROM {NAME} WHERE "번호" > 6')
    report = copy(orders)
    assert any("was set back" in warning for warning in report.warnings)
    assert report.watermark is not None
    assert report.watermark["new"] is None
    assert target.value("SELECT count(*) FROM safecopy.watermark") == 0
    source.execute(f'UPDATE {NAME} SET "내용" = \'그사이\' WHERE "번호" = 2')
    assert copy(orders).updated == 1


def test_a_watermark_somebody_forgets_meanwhile_stays_forgotten(orders: tuple[Database, Database]) -> None:
    source, target = orders
    copy(orders)
    put(source, 11)

    def forget(at: Progress) -> None:
        if at.stage == "publish":
            target.execute("DELETE FROM safecopy.watermark")

    pipeline.copy(spec(), source.endpoint, target.endpoint, progress=forget)
    assert target.value("SELECT count(*) FROM safecopy.watermark") == 0
    assert copy(orders).unchanged == 11


def test_the_same_source_under_another_name_is_read_again(orders: tuple[Database, Database]) -> None:
    """Nobody can tell a renamed host from a copy of the database on another."""
    source, target = orders
    copy(orders)
    renamed = replace(source.endpoint, label="erp.example:5432/erp")
    report = pipeline.copy(spec(), renamed, target.endpoint)
    assert report.watermark is not None
    assert report.watermark["old"] is None
    assert report.unchanged == 10


# Intervals


def interval(start: str, end: str, **options: Any) -> dict[str, Any]:
    return {"interval_start": start, "interval_end": end, **options}


def test_an_interval_is_a_slice_that_can_be_read_again(orders: tuple[Database, Database]) -> None:
    source, target = orders
    days = interval("2026-11-12T00:00:00+00:00", "2026-11-14T00:00:00+00:00")
    report = copy(orders, **days)
    assert report.inserted == 2, "its start is in it, its end is not"
    assert report.slice == "2026-11-12 00:00:00+00/2026-11-14 00:00:00+00"
    assert report.watermark is not None
    assert (report.watermark["old"], report.watermark["new"]) == (None, None), "what lies before was never read"
    source.execute(f'UPDATE {NAME} SET "내용" = \'고침\' WHERE "번호" = 3')
    again = copy(orders, **days)
    assert (again.status, again.updated, again.unchanged) == ("published", 1, 1)
    slices = target.rows("SELECT slice FROM safecopy.receipt WHERE write_mode = 'incremental'")
    assert slices == [(report.slice,)] * 2
    assert copy(orders, **days, append_key="첫 이틀").slice == "첫 이틀"


@pytest.mark.parametrize(
    "start, end, new",
    [
        ("5", "7", "10"),
        ("5", "13", "12"),
        ("10", "12", "11"),
        ("11", "13", "10"),
        ("12", "99", "10"),
    ],
)
def test_an_interval_moves_the_watermark_only_where_it_leaves_no_gap(
    orders: tuple[Database, Database], start: str, end: str, new: str
) -> None:
    source, _ = orders
    copy(orders, cursor_column="순번")
    put(source, 11, 12)
    report = copy(orders, **interval(start, end, cursor_column="순번"))
    assert report.watermark is not None
    assert (report.watermark["old"], report.watermark["new"]) == ("10", new)
    copy(orders, cursor_column="순번")
    assert same(orders)


def test_intervals_side_by_side_read_every_row_once(orders: tuple[Database, Database]) -> None:
    days = [f"2026-11-{day}T00:00:00+00:00" for day in (10, 13, 16, 20)]
    inserted = [copy(orders, **interval(*both)).inserted for both in pairwise(days)]
    assert inserted == [3, 3, 4]
    assert same(orders)


@pytest.mark.parametrize(
    "options, code, hint",
    [
        (interval("2026-11-12", "2026-11-12"), "bad_interval", "as timestamp with time zone"),
        (interval("2026-11-13", "2026-11-12"), "bad_interval", "as timestamp with time zone"),
        (interval("어제", "오늘"), "bad_interval", "of the cursor's type, timestamp with time zone"),
        (interval("2026-11-12", "None"), "bad_interval", "of the cursor's type"),
        (interval("1", "1.5", cursor_column="순번"), "bad_interval", "of the cursor's type, integer"),
        ({"lookback": "어제"}, "bad_lookback", "an interval such as"),
        ({"lookback": "-1 day"}, "bad_lookback", "without a minus"),
        ({"lookback": "10000 years"}, "bad_lookback", "an interval such as"),
        ({"lookback": "-1", "cursor_column": "순번"}, "bad_lookback", "without a minus"),
        ({"lookback": "NaN", "cursor_column": "점"}, "bad_lookback", "without a minus"),
        ({"lookback": "2 days", "cursor_column": "번호"}, "bad_lookback", "a number"),
        ({"cursor_column": "내용"}, "cursor_type", "timestamp with time zone"),
        ({"cursor_column": "없음"}, "cursor_missing", "copy it too"),
        ({"columns": ["번호", "내용"]}, "cursor_missing", "copy it too"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_first_run(
    orders: tuple[Database, Database], options: dict[str, Any], code: str, hint: str
) -> None:
    ((found, told),) = refused(orders, **options)
    assert found == code
    assert hint in told


@pytest.mark.parametrize("end", ["2026-11-13T00:00:00+00:00", "2026-11-13 09:00:00.5 Z", "2026-11-13"])
def test_a_time_zone_that_is_ignored_is_told(orders: tuple[Database, Database], end: str) -> None:
    source, target = orders
    for column, told in (("날짜", end != "2026-11-13"), ("변경", False)):
        asked = spec(**interval("2026-11-01", end, cursor_column=column))
        warnings = pipeline.plan(asked, source.endpoint, target.endpoint).warnings
        assert [each for each in warnings if "has none: it is ignored" in each][:1] == (
            [f"2026-11-01 and {end} have a time zone, and 날짜 (date) has none: it is ignored"] if told else []
        )


def test_a_cursor_cannot_smuggle_sql(orders: tuple[Database, Database]) -> None:
    source, target = orders
    evil = "2026-01-01'::timestamptz; DROP TABLE x; --"
    assert [code for code, _ in refused(orders, **interval(evil, "2026-12-01"))] == ["bad_interval"]
    assert [code for code, _ in refused(orders, lookback="1 day'); --")] == ["bad_lookback"]
    with pytest.raises(PlanError):
        pipeline.copy(spec(lookback="x"), source.endpoint, target.endpoint)


# When the target has lost its rows


@pytest.mark.parametrize("how", ["TRUNCATE", "DELETE FROM"])
def test_the_watermarks_of_all_origins_are_forgotten_with_the_rows(orders: tuple[Database, Database], how: str) -> None:
    """Two origins fill one target. Once it was emptied the first copy fills it again; the other's watermark would count
    for a table that is not empty, and its rows be missing for good."""
    _, target = orders
    halves: list[dict[str, Any]] = [{"where": '"번호" <= 5'}, {"where": '"번호" > 5'}]
    for half in halves:
        copy(orders, **half)
    target.execute(f"{how} {NAME}")
    for half in halves:
        assert copy(orders, **half).inserted == 5
    assert same(orders)


def test_a_watermark_does_not_outlast_a_truncate_though_others_fill_the_table(
    orders: tuple[Database, Database],
) -> None:
    _, target = orders
    copy(orders)
    target.execute(f"TRUNCATE {NAME}")
    put(target, 10)
    report = copy(orders)
    assert report.inserted == 9
    assert "truncated or rewritten" in " ".join(report.reasons)
    assert same(orders)
    assert copy(orders).watermark["old"] is not None  # type: ignore[index]

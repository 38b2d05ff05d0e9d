"""Many tables in one call, from two databases to a report of each."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError, ConfigError, LockBusyError, PlanError
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.pipeline import batch, planner
from airflow_provider_safecopy.pipeline.outcome import BatchProgress, BatchReport, Failure
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import Psql
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from airflow_provider_safecopy.table_list import build_specs, parse_entries
from tests.conftest import MakeDatabase, MakePsql, MakeRole, NothingLeft
from tests.support.content import rows_of
from tests.support.database import Database
from tests.support.fake_psql import Behaviour

ODD = [
    "큰 고객",
    '인용"부호',
    "탭\t있음",
    "줄\n바꿈",
    "점.찍음",
    "UPPER",
    "a'b",
    "칼:ECHO",
    "역\\빗금",
    "가" * 21,
    "#우물",
]
"""Names as people do give them to tables."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def table(name: str) -> str:
    return f'"영업".{quoted(name)}'


@pytest.fixture
def pair(source: Database, target: Database) -> tuple[Database, Database]:
    """A schema on both sides, and no table."""
    for database in (source, target):
        database.execute('CREATE SCHEMA "영업"')
    return source, target


def fill(pair: tuple[Database, Database], names: list[str], rows: int = 3) -> None:
    """Tables of these names on both sides; the source's have rows, each its own, the target's one of old."""
    made = 'CREATE TABLE {} ("번\n호" int PRIMARY KEY, "이""름" text, "금액" numeric(12,2));'
    filled = "INSERT INTO {} SELECT g, {} || g, g FROM generate_series(1, {}) g;"
    names_as_text = ["'" + name.replace("'", "''").replace("\\", "\\\\") + "'" for name in names]
    source, target = pair
    source.execute(
        "".join(
            made.format(table(name)) + filled.format(table(name), "E" + text, rows)
            for name, text in zip(names, names_as_text, strict=True)
        )
    )
    old = "INSERT INTO {} VALUES (-1, '옛것', 0);"
    target.execute("".join(made.format(table(name)) + old.format(table(name)) for name in names))


def asked(names: list[str], **shared: object) -> tuple[CopySpec, ...]:
    """Specs of tables of one name on both sides."""
    listed = [{"source_table": ("영업", name), "target_table": ("영업", name)} for name in names]
    return build_specs(parse_entries(listed, "tables"), shared)


def copied(pair: tuple[Database, Database], names: list[str], **shared: object) -> BatchReport:
    source, target = pair
    return pipeline.copy_tables(asked(names, **shared), source.endpoint, target.endpoint, owner="시험")


def same(pair: tuple[Database, Database], name: str) -> bool:
    one, other = (rows_of(database, f"TABLE {table(name)}") for database in pair)
    return one == other


def is_old(pair: tuple[Database, Database], name: str) -> bool:
    return pair[1].rows(f"TABLE {table(name)}") == [(-1, "옛것", 0)]


@pytest.mark.slow
@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("verify", ["counts", "full"])
def test_thirty_tables_are_each_locked_verified_and_receipted(
    pair: tuple[Database, Database], nothing_left: NothingLeft, verify: str
) -> None:
    names = [*ODD, *(f"표_{number}" for number in range(30 - len(ODD)))]
    fill(pair, names)
    told: list[BatchProgress] = []
    source, target = pair
    report = pipeline.copy_tables(
        asked(names, verify=verify), source.endpoint, target.endpoint, owner="시험", progress=told.append
    )
    assert (report.status, report.failed) == ("published", ())
    assert [name for name in names if not same(pair, name)] == []
    locks = [str(TableName("영업", name)) for name in names]
    assert [each.lock for each in report.tables] == locks
    assert {each.status for each in report.tables} == {"published"}
    assert {(each.rows, each.previous_rows, each.inserted, each.format) for each in report.tables} == {
        (3, 1, 3, "binary")
    }
    assert all((each.content_hash is not None) == (verify == "full") for each in report.tables)
    assert all(each.digest and each.bytes for each in report.tables)
    # A receipt of each, with the report's token and attempt, and the proofs.
    receipts = target.rows(
        "SELECT target, lock, token, attempt::text, row_count, proof #>> '{rows,exported}', proof #>> '{rows,staging}', "
        "proof #>> '{digest,imported}' FROM safecopy.receipt ORDER BY id"
    )
    assert receipts == [
        (each.lock, each.lock, each.token, each.attempt, 3, "3", "3", each.digest) for each in report.tables
    ]
    # And what the lock's history tells of a single copy, it tells of each.
    events = target.rows("SELECT name, array_agg(kind ORDER BY id) FROM safecopy.lock_event GROUP BY name")
    assert dict(events) == {name: ["grant", "release"] for name in locks}
    assert [(each.done, each.total) for each in told] == [(number, 30) for number in range(1, 31)]
    nothing_left(*pair)


def test_a_second_batch_draws_the_next_tokens_and_writes_text_between_majors(
    pair: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    names = ODD[:4]
    fill(pair, names)
    first, second = copied(pair, names), copied(pair, names)
    assert {each.format for each in first.tables} == {"text"}
    assert [each.token for each in second.tables] == [(each.token or 0) + 1 for each in first.tables]
    assert [name for name in names if not same(pair, name)] == []
    nothing_left(*pair)


def test_the_batch_is_read_in_one_snapshot(pair: tuple[Database, Database]) -> None:
    names = ["하나", "둘", "셋"]
    fill(pair, names)
    source, target = pair
    before = {name: rows_of(source, f"TABLE {table(name)}") for name in names}

    def disturb(_: BatchProgress) -> None:
        for name in names:
            source.execute(f'DELETE FROM {table(name)} WHERE "번\n호" = 1')

    pipeline.copy_tables(asked(names, verify="full"), source.endpoint, target.endpoint, progress=disturb)
    assert {name: rows_of(target, f"TABLE {table(name)}") for name in names} == before


@pytest.mark.parametrize("publish", ["auto", "delta", "delete_insert", "truncate_insert", "swap"])
def test_every_way_to_publish_replaces_the_rows(
    pair: tuple[Database, Database], nothing_left: NothingLeft, publish: str
) -> None:
    fill(pair, ["하나", "둘"])
    report = copied(pair, ["하나", "둘"], publish=publish)
    assert {each.publish for each in report.tables} == {"delete_insert" if publish == "auto" else publish}
    assert same(pair, "하나")
    assert same(pair, "둘")
    nothing_left(*pair)


def test_how_to_publish_hangs_on_how_small_a_table_is_and_on_who_listens(pair: tuple[Database, Database]) -> None:
    fill(pair, ["작음", "방아쇠", "큼", "열쇠_없음"])
    source, target = pair
    target.execute(f'ALTER TABLE {table("열쇠_없음")} DROP CONSTRAINT "열쇠_없음_pkey"')
    target.execute(
        "CREATE FUNCTION 영업.듣기() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        f"CREATE TRIGGER 듣기 AFTER UPDATE ON {table('방아쇠')} FOR EACH ROW EXECUTE FUNCTION 영업.듣기()"
    )
    source.execute(f"INSERT INTO {table('큼')} SELECT g FROM generate_series(10, 20000) g; ANALYZE {table('큼')}")
    report = copied(pair, ["작음", "방아쇠", "큼", "열쇠_없음"])
    assert [each.publish for each in report.tables] == ["delete_insert", "delta", "swap", "delete_insert"]
    assert any("all rows are written anew" in reason for reason in report.tables[0].reasons)
    single = pipeline.copy(asked(["작음"])[0], source.endpoint, target.endpoint)
    assert single.publish == "swap"


def test_one_bad_table_among_good_ones_fails_alone(pair: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    names = ["하나", "나쁨", "둘", "더_나쁨", "셋"]
    fill(pair, names)
    source, target = pair
    # One that cannot be read to its end, one that cannot be published.
    source.execute(
        f'ALTER TABLE {table("나쁨")} RENAME TO "밑";'
        f'CREATE VIEW {table("나쁨")} AS SELECT "번\n호", "이""름", 1 / (3 - "번\n호") + "금액" AS "금액" FROM {table("밑")}'
    )
    target.execute(
        f'ALTER TABLE {table("나쁨")} ALTER "금액" TYPE numeric; ALTER TABLE {table("더_나쁨")} ADD CHECK ("번\n호" < 3)'
    )
    report = copied(pair, names)
    assert report.status == "partly"
    assert [(each.target, type(each.error).__name__, each.error.stage) for each in report.failed] == [
        ("영업.나쁨", "StageError", "export"),
        ("영업.더_나쁨", "StageError", "publish"),
    ]
    assert [same(pair, name) for name in ("하나", "둘", "셋")] == [True] * 3
    assert is_old(pair, "나쁨")
    assert is_old(pair, "더_나쁨")
    nothing_left(*pair)


def test_an_empty_table_is_refused_unless_that_is_allowed(pair: tuple[Database, Database]) -> None:
    fill(pair, ["하나", "둘"])
    source, target = pair
    source.execute(f"TRUNCATE {table('둘')}")
    with pytest.raises(PlanError) as raised:
        copied(pair, ["하나", "둘"])
    assert [refusal.code for refusal in raised.value.refusals] == ["empty_source"]
    assert is_old(pair, "하나")
    assert target.value("SELECT to_regnamespace('safecopy') IS NULL")
    report = copied(pair, ["하나", "둘"], min_rows=0)
    assert [each.rows for each in report.tables] == [3, 0]
    assert same(pair, "둘")


def test_refusals_of_any_keep_all_from_being_copied_unless_the_others_are_to_be(
    pair: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    fill(pair, ["하나", "둘"])
    source, target = pair
    specs = asked(["하나", "없음", "둘"])
    with pytest.raises(PlanError) as raised:
        pipeline.copy_tables(specs, source.endpoint, target.endpoint)
    assert {refusal.code for refusal in raised.value.refusals} == {"no_such_table"}
    assert is_old(pair, "하나")
    report = pipeline.copy_tables(specs, source.endpoint, target.endpoint, keep_going=True)
    assert [each.target for each in report.failed] == ["영업.없음"]
    assert same(pair, "하나")
    assert same(pair, "둘")
    plans = pipeline.plan_tables(specs, source.endpoint, target.endpoint)
    assert [bool(plan.refusals) for plan in plans] == [False, True, False]
    assert plans[0].steps()
    nothing_left(*pair)


def test_two_names_of_one_target_are_refused(pair: tuple[Database, Database]) -> None:
    fill(pair, ["하나"])
    source, target = pair
    target.execute(f'ALTER ROLE postgres IN DATABASE "{target.name}" SET search_path = 영업')
    listed = ["영업.하나", {"source_table": "영업.하나", "target_table": "하나"}]
    with pytest.raises(ConfigError, match=r"영업\.하나 is the target of two tables"):
        pipeline.copy_tables(build_specs(parse_entries(listed, "tables"), {}), source.endpoint, target.endpoint)
    assert is_old(pair, "하나")


def test_what_is_not_small_goes_the_ordinary_way_in_the_same_call(
    pair: tuple[Database, Database], nothing_left: NothingLeft, mocker: MockerFixture
) -> None:
    names = ["하나", "큼", "둘"]
    fill(pair, names)
    source, target = pair
    source.execute(f"INSERT INTO {table('큼')} SELECT g FROM generate_series(10, 3000) g; ANALYZE")
    mocker.patch.object(planner, "CARRIED_BYTES", 20_000)
    report = copied(pair, names, lock="야간")
    assert [name for name in names if not same(pair, name)] == []
    assert [(each.rows, each.stages[0].exit_code) for each in report.tables] == [(3, None), (2994, 0), (3, None)]
    # The run's own lock was held from the first to the last, and shared with the one that went its own way.
    events = target.rows("SELECT kind, member_key FROM safecopy.lock_event WHERE name = '야간' ORDER BY id")
    assert events == [("grant", "main"), ("join", "main 영업.큼"), ("leave", "main 영업.큼"), ("release", "main")]
    nothing_left(*pair)


def test_a_table_that_turns_out_to_be_large_goes_the_ordinary_way_too(
    pair: tuple[Database, Database], nothing_left: NothingLeft, mocker: MockerFixture
) -> None:
    names = ["하나", "둘", "셋"]
    fill(pair, names)
    source, _ = pair
    source.execute(f"INSERT INTO {table('둘')} SELECT g FROM generate_series(10, 30000) g")  # nobody analyzed it
    source.execute("UPDATE pg_class SET relpages = 1, reltuples = 1 WHERE relname = '둘'")
    mocker.patch("airflow_provider_safecopy.pipeline.batch_rounds.CARRIED_BYTES", 100_000)
    report = copied(pair, names, publish="delta")
    assert [each.rows for each in report.tables] == [3, 29994, 3]
    assert [name for name in names if not same(pair, name)] == []
    nothing_left(*pair)


@contextmanager
def holding(target: Database, *names: str) -> Iterator[None]:
    with LivingLock(names, target.endpoint):
        yield


def test_a_table_others_have_locked_is_told_of_and_the_others_are_copied(
    pair: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    names = ["하나", "둘", "셋"]
    fill(pair, names)
    source, target = pair
    specs = asked(names)
    with holding(target, "영업.둘"):
        report = pipeline.copy_tables(specs, source.endpoint, target.endpoint)
        (failed,) = report.failed
        assert isinstance(failed.error, LockBusyError)
        assert failed.error.lock == "영업.둘"
        assert is_old(pair, "둘")
        assert same(pair, "하나")
        skipping = pipeline.copy_tables(specs, source.endpoint, target.endpoint, on_busy="skip")
        assert [each.status for each in skipping.tables] == ["published", "skipped", "published"]
        assert skipping.status == "published"
        before = target.value("SELECT count(*) FROM safecopy.receipt")
        with pytest.raises(LockBusyError):  # before anything is touched: so that waiting copies each table once
            pipeline.copy_tables(specs, source.endpoint, target.endpoint, on_busy="wait")
        assert target.value("SELECT count(*) FROM safecopy.receipt") == before
    nothing_left(*pair)


def test_the_runs_own_lock_is_one_for_all(pair: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    fill(pair, ["하나", "둘"])
    _, target = pair
    copied(pair, ["하나"])  # makes the schema
    with holding(target, "야간"), pytest.raises(LockBusyError):
        copied(pair, ["하나", "둘"], lock="야간")
    assert is_old(pair, "둘")
    report = copied(pair, ["하나", "둘"], lock="야간")
    assert [each.lock for each in report.tables] == ["영업.하나", "영업.둘"]
    events = target.rows("SELECT kind FROM safecopy.lock_event WHERE name = '야간' ORDER BY id DESC LIMIT 2")
    assert events == [("release",), ("grant",)]
    nothing_left(*pair)


def test_a_run_that_lost_its_own_lock_publishes_no_more(
    pair: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    names = [f"표_{number}" for number in range(6)]
    fill(pair, names)
    source, target = pair

    def take_away(progress: BatchProgress) -> None:
        if progress.done == 2:
            target.execute(
                "UPDATE safecopy.lock SET token = token + 1, lease_id = gen_random_uuid(), owner_key = '남' "
                "WHERE name = '야간'"
            )

    report = pipeline.copy_tables(asked(names, lock="야간"), source.endpoint, target.endpoint, progress=take_away)
    assert len(report.tables) == 2
    assert {type(each.error).__name__ for each in report.failed} <= {"FencedOutError", "LockLostError"}
    assert [is_old(pair, name) for name in names] == [False, False, True, True, True, True]
    target.execute("UPDATE safecopy.lock SET lease_id = NULL, owner_key = NULL WHERE name = '야간'")
    nothing_left(*pair)


@pytest.mark.parametrize("at", [1, 3])
def test_an_abort_in_the_middle_leaves_what_is_published_and_nothing_else(
    pair: tuple[Database, Database], nothing_left: NothingLeft, at: int
) -> None:
    names = [f"표_{number}" for number in range(6)]
    fill(pair, names)
    source, target = pair
    abort = AbortSwitch()

    def stop(progress: BatchProgress) -> None:
        if progress.done == at:
            abort.throw("시험이 멈춤")

    report = pipeline.copy_tables(asked(names), source.endpoint, target.endpoint, abort=abort, progress=stop)
    assert len(report.tables) == at
    assert {str(each.error) for each in report.failed} == {"aborted: 시험이 멈춤"}
    assert [same(pair, name) for name in names] == [number < at for number in range(6)]
    nothing_left(*pair)
    assert copied(pair, names).status == "published"


def test_an_abort_ends_planning_that_waits_in_the_server(
    pair: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    """It ended what was asked of all tables at once, and then each was asked for by itself, and waited."""
    names = ["하나", "둘"]
    fill(pair, names)
    copied(pair, names)
    source, target = pair
    abort, started = AbortSwitch(), time.monotonic()
    with target.connect() as other, other.transaction():
        other.execute("LOCK TABLE safecopy.receipt")
        threading.Timer(0.5, abort.throw, ["시험이 멈춤"]).start()
        with pytest.raises(AbortedError, match="시험이 멈춤"):
            pipeline.copy_tables(asked(names), source.endpoint, target.endpoint, abort=abort)
    assert time.monotonic() - started < 25
    nothing_left(*pair)


def test_an_abort_ends_a_publish_that_waits_in_the_server(
    pair: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    fill(pair, ["하나", "둘"])
    source, target = pair
    target.execute(
        "CREATE FUNCTION 영업.낮잠() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(60); RETURN NULL; END$$;"
        f"CREATE TRIGGER 낮잠 BEFORE INSERT ON {table('둘')} FOR EACH STATEMENT EXECUTE FUNCTION 영업.낮잠()"
    )
    abort = AbortSwitch()

    def stop(progress: BatchProgress) -> None:
        threading.Timer(0.5, abort.throw, ["시험이 멈춤"]).start()

    report = pipeline.copy_tables(asked(["하나", "둘"]), source.endpoint, target.endpoint, abort=abort, progress=stop)
    assert (len(report.tables), len(report.failed)) == (1, 1)
    assert is_old(pair, "둘")
    nothing_left(*pair)


@pytest.mark.parametrize("stage", ["export", "import"])
def test_a_psql_that_is_killed_fails_one_table_and_the_next_has_another(
    pair: tuple[Database, Database], nothing_left: NothingLeft, mocker: MockerFixture, stage: str
) -> None:
    names = [f"표_{number}" for number in range(6)]
    fill(pair, names)
    source, target = pair
    started: dict[str, int] = {}
    start: Any = vars(Psql)["start"].__func__

    def watched(cls: type[Psql], which: str, *args: Any, **options: Any) -> Psql:
        psql: Psql = start(cls, which, *args, **options)
        started[which] = psql.pid
        return psql

    mocker.patch.object(Psql, "start", classmethod(watched))

    def kill(progress: BatchProgress) -> None:
        if progress.done == 2 and not progress.failed:
            os.kill(started[stage], signal.SIGKILL)

    report = pipeline.copy_tables(asked(names), source.endpoint, target.endpoint, progress=kill)
    (failed,) = report.failed
    assert (failed.error.stage, vars(failed.error)["exit_code"]) == (stage, -signal.SIGKILL)
    # An export is asked for one table ahead: it may have been done with the next one already.
    assert failed.target in {"영업.표_2", "영업.표_3"}
    assert [same(pair, name) for name in names] == [f"영업.{name}" != failed.target for name in names]
    assert is_old(pair, failed.target.removeprefix("영업."))
    nothing_left(*pair)


def test_an_export_that_dies_in_the_middle_of_a_table_is_never_published(
    pair: tuple[Database, Database], nothing_left: NothingLeft, fake_psql: MakePsql
) -> None:
    fill(pair, ["하나", "둘"])
    report = copied(pair, ["하나", "둘"], psql=fake_psql(Behaviour(stage="export", die_after=10)))
    assert [(each.target, each.error.stage) for each in report.failed] == [
        ("영업.하나", "export"),
        ("영업.둘", "export"),
    ]
    assert is_old(pair, "하나")
    assert is_old(pair, "둘")
    nothing_left(*pair)


@pytest.mark.parametrize(
    "lie",
    [
        (0, "s/ rows 3$/ rows 9/", "VerifyError"),
        (1, "s/ rows 3$/ rows 2/", "VerifyError"),
        (0, "s/ rows 3$/ rows/", "StageError"),
        (0, "/ rows /d", "StageError"),
        (1, "/ rows /d", "VerifyError"),
        (0, "/ changed/d", "StageError"),
        (0, "/ replaced/d", "StageError"),
        (0, "s/ keeper t$/ keeper f/", "StageError"),
        (0, "/ keeper/d", "StalledError"),
        (1, "/ changed/d", "StalledError"),
        (1, "/ committed/d", "StalledError"),
    ],
)
def test_a_psql_that_lies_or_is_silent_publishes_nothing(
    pair: tuple[Database, Database], nothing_left: NothingLeft, tmp_path: Path, psql: str, lie: tuple[int, str, str]
) -> None:
    side, edit, error = lie
    fill(pair, ["하나", "둘"])
    liar = tmp_path / "psql"
    liar.write_text(
        f"""#!/bin/bash
if [[ "$*" == *{pair[side].name}* ]]; then exec {psql} "$@" 2> >(exec sed -u '{edit}' >&2); fi
exec {psql} "$@"
"""
    )
    liar.chmod(0o755)
    report = copied(pair, ["하나", "둘"], psql=str(liar), timeouts=Timeouts(stall=1))
    assert [type(each.error).__name__ for each in report.failed] == [error] * 2
    assert is_old(pair, "하나")
    assert is_old(pair, "둘")
    nothing_left(*pair)


def test_a_control_session_that_is_lost_ends_the_batch(
    pair: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    names = [f"표_{number}" for number in range(5)]
    fill(pair, names)
    source, target = pair

    def cut(progress: BatchProgress) -> None:
        if progress.done == 2:
            target.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'safecopy:%'"
            )

    report = pipeline.copy_tables(asked(names), source.endpoint, target.endpoint, progress=cut)
    assert len(report.tables) == 2
    assert all(each.error.retryable for each in report.failed)
    assert [is_old(pair, name) for name in names] == [False, False, True, True, True]
    # What the lost session would have dropped is left to the next run.
    assert copied(pair, names).status == "published"
    nothing_left(*pair)


def test_rounds_follow_each_other(
    pair: tuple[Database, Database], nothing_left: NothingLeft, mocker: MockerFixture
) -> None:
    names = [f"표_{number}" for number in range(7)]
    fill(pair, names)
    mocker.patch.object(batch, "ROUND_TABLES", 3)
    assert copied(pair, names).status == "published"
    events = [kind for (kind,) in pair[1].rows("SELECT kind FROM safecopy.lock_event ORDER BY id")]
    assert events == ["grant"] * 3 + ["release"] * 3 + ["grant"] * 3 + ["release"] * 3 + ["grant", "release"]
    nothing_left(*pair)


def test_modes_that_are_no_replace(pair: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    fill(pair, ["더함", "고침", "늘임"])
    source, target = pair
    listed = [
        {
            "source_table": ("영업", "더함"),
            "target_table": ("영업", "더함"),
            "write_mode": "append",
            "append_key": "오늘",
        },
        {"source_table": ("영업", "고침"), "target_table": ("영업", "고침"), "write_mode": "upsert"},
        {
            "source_table": ("영업", "늘임"),
            "target_table": ("영업", "늘임"),
            "write_mode": "incremental",
            "cursor_column": "번\n호",
        },
    ]
    specs = build_specs(parse_entries(listed, "tables"), {})
    first = pipeline.copy_tables(specs, source.endpoint, target.endpoint)
    assert [each.inserted for each in first.tables] == [3, 3, 3]
    again = pipeline.copy_tables(specs, source.endpoint, target.endpoint)
    assert [each.status for each in again.tables] == ["already_published", "published", "published"]
    assert [target.value(f"SELECT count(*) FROM {table(name)}") for name in ("더함", "고침", "늘임")] == [4, 4, 4]
    nothing_left(*pair)


def test_a_role_with_no_more_than_it_needs_copies_many(
    pair: tuple[Database, Database], role: MakeRole, nothing_left: NothingLeft
) -> None:
    fill(pair, ["하나", "둘"])
    source, target = pair
    reader, writer = role(source), role(target)
    source.execute(
        f'GRANT USAGE ON SCHEMA "영업" TO "{reader.role}"; GRANT SELECT ON ALL TABLES IN SCHEMA "영업" TO "{reader.role}"'
    )
    target.execute(
        f'GRANT CREATE ON DATABASE "{target.name}" TO "{writer.role}"; GRANT USAGE ON SCHEMA "영업" TO "{writer.role}";'
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "영업" TO "{writer.role}"'
    )
    report = pipeline.copy_tables(asked(["하나", "둘"]), reader.endpoint, writer.endpoint)
    assert report.status == "published", report.failed
    assert same(pair, "하나")
    nothing_left(source, target)


def test_no_table_at_all_is_no_batch(pair: tuple[Database, Database]) -> None:
    source, target = pair
    with pytest.raises(ConfigError, match="no table"):
        pipeline.copy_tables([], source.endpoint, target.endpoint)


def test_encodings_that_lack_letters_are_told_per_table(
    pair: tuple[Database, Database], database: MakeDatabase
) -> None:
    """A name no EUC_KR server can spell is that table's refusal, and the others' answers are found one by one."""
    source, _ = pair
    euc = database(encoding="EUC_KR", locale="C")
    euc.execute('CREATE SCHEMA "영업"')
    fill((source, euc), ["하나"])
    source.execute('CREATE TABLE "영업"."똠" (a int); INSERT INTO "영업"."똠" VALUES (1)')
    specs = asked(["하나", "똠"])
    report = pipeline.copy_tables(specs, source.endpoint, euc.endpoint, keep_going=True)
    assert [each.target for each in report.failed] == ["영업.똠"]
    error = report.failed[0].error
    assert isinstance(error, PlanError)
    assert "name_not_in_encoding" in {refusal.code for refusal in error.refusals}
    assert same((source, euc), "하나")


_UNREADABLE = {
    "not populated": "CREATE MATERIALIZED VIEW public.나쁜 AS SELECT 1 AS n WITH NO DATA",
    "a view without rights": (
        "CREATE TABLE public.숨은 (n int); CREATE VIEW public.나쁜 WITH (security_invoker) AS SELECT * FROM public.숨은"
    ),
    "a division by zero": "CREATE VIEW public.나쁜 AS SELECT 1 / (1 - 1) AS n FROM public.좋은",
    "a lost function": (
        "CREATE FUNCTION public.것(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';"
        "CREATE VIEW public.나쁜 AS SELECT public.것(n) AS n FROM public.좋은; SET check_function_bodies = off;"
        "CREATE OR REPLACE FUNCTION public.것(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 없는.것($1)'"
    ),
}


@pytest.mark.parametrize("making", _UNREADABLE.values(), ids=_UNREADABLE)
def test_a_relation_that_cannot_be_planned_is_refused_as_it_is_alone(
    source: Database, target: Database, role: MakeRole, making: str
) -> None:
    """The kind: a question about all tables that errs for one says nothing of the others."""
    source.execute(f"CREATE TABLE public.좋은 (n int); INSERT INTO public.좋은 VALUES (1); {making}")
    target.execute("CREATE TABLE public.좋은 (n int); CREATE TABLE public.나쁜 (n int)")
    reader = role(source)
    source.execute(f'GRANT SELECT ON public.좋은, public.나쁜 TO "{reader.role}"')
    specs = [CopySpec.of(source_table=f"public.{name}", target_table=f"public.{name}") for name in ("나쁜", "좋은")]
    with pytest.raises(PlanError) as alone:
        pipeline.copy(specs[0], reader.endpoint, target.endpoint)
    with pytest.raises(PlanError) as together:
        pipeline.copy_tables(specs, reader.endpoint, target.endpoint)
    assert together.value.refusals == alone.value.refusals
    assert target.value("SELECT count(*) FROM public.좋은") == 0
    report = pipeline.copy_tables(specs, reader.endpoint, target.endpoint, keep_going=True)
    bad, good = report.outcomes
    assert isinstance(bad, Failure)
    assert isinstance(bad.error, PlanError)
    assert bad.error.refusals == alone.value.refusals
    assert isinstance(good, CopyReport)
    assert target.value("SELECT count(*) FROM public.좋은") == 1

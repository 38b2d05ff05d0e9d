"""Publish: old rows or new ones for every reader, whatever hangs on the table or holds it."""

from __future__ import annotations

import threading
import time
from typing import Any, get_args

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import Server
from airflow_provider_safecopy.errors import PlanError, StageError, StageTimeoutError, VerifyError
from airflow_provider_safecopy.publish import transaction as publish_module
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.spec import Progress, Strategy, Timeouts
from tests.conftest import NothingLeft
from tests.support.customers import SHAPE, TABLE, fill, spec
from tests.support.database import Database


def test_a_target_that_changes_meanwhile_is_refused(filled: tuple[Database, Database]) -> None:
    source, target = filled

    def disturb(at: Progress) -> None:
        if at.stage == "verify":
            target.execute(f'ALTER TABLE {TABLE} ALTER "금액" TYPE numeric(14,4)')

    with pytest.raises(PlanError, match="not the table it was") as caught:
        pipeline.copy(spec(), source.endpoint, target.endpoint, progress=disturb)
    assert caught.value.retryable
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2


def test_a_trigger_that_swallows_rows_is_noticed(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    target.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
        '$$BEGIN IF NEW."번호" = 7 THEN RETURN NULL; END IF; RETURN NEW; END$$;'
        f"CREATE TRIGGER swallow BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    with pytest.raises(VerifyError, match="trigger"):
        pipeline.copy(spec(publish="delete_insert"), source.endpoint, target.endpoint)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)


def test_triggers_of_the_target_run_as_they_always_did(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute(
        f"ALTER DATABASE \"{target.name}\" SET TimeZone = 'Asia/Seoul';"
        'CREATE SCHEMA "감사"; CREATE TABLE "감사"."기록" (zone text, how text);'
        f'ALTER DATABASE "{target.name}" SET search_path = "감사"'
    )
    target.execute(
        'CREATE FUNCTION "감사".note() RETURNS trigger LANGUAGE plpgsql AS '
        "$$BEGIN INSERT INTO \"기록\" VALUES (current_setting('TimeZone'), TG_OP); RETURN NULL; END$$;"
        f'CREATE TRIGGER note AFTER INSERT OR DELETE ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION "감사".note()'
    )
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert target.rows('SELECT * FROM "기록"') == [("Asia/Seoul", "DELETE"), ("Asia/Seoul", "INSERT")]


@pytest.mark.parametrize(
    ("publish", "stage"), [("swap", "prepare"), ("delta", "publish"), ("delete_insert", "publish")]
)
def test_a_constraint_of_the_target_refuses_the_publish_whole(
    filled: tuple[Database, Database], nothing_left: NothingLeft, publish: str, stage: str
) -> None:
    source, target = filled
    target.execute(f'ALTER TABLE {TABLE} ADD CHECK ("번호" < 1500)')
    with pytest.raises(StageError) as caught:
        pipeline.copy(spec(publish=publish), source.endpoint, target.endpoint)
    assert (caught.value.stage, caught.value.sqlstate, caught.value.retryable) == (stage, "23514", False)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)


@pytest.mark.parametrize("publish", ["delete_insert", "truncate_insert"])
def test_an_autovacuum_of_the_target_gives_way(source: Database, publish: str) -> None:
    """One that takes minutes: it pauses a tenth of a second after each page."""
    eager = {"autovacuum_naptime": "1s", "log_autovacuum_min_duration": "0"}
    with Server.start(source.server.installation, durable=False, settings=eager) as server:
        target = Database(server, "postgres")
        for database in (source, target):
            database.execute(SHAPE)
            fill(database, 20_000)
        target.execute(
            f"ALTER TABLE {TABLE} SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, "
            f"autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0); DELETE FROM {TABLE}"
        )
        deadline = time.monotonic() + 60
        while not target.value("SELECT count(*) FROM pg_stat_progress_vacuum"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        limit = Timeouts(publish=15)
        report = pipeline.copy(spec(publish=publish, timeouts=limit), source.endpoint, target.endpoint)
        assert report.rows == 20_000


def test_a_locked_target_is_waited_for(filled: tuple[Database, Database]) -> None:
    source, target = filled
    with target.connect() as holder:
        holder.execute("BEGIN")
        holder.execute(f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE".encode())
        release = threading.Timer(1.0, holder.rollback)
        release.start()
        report = pipeline.copy(spec(), source.endpoint, target.endpoint)
        release.join()
    assert report.rows == 2000


def test_a_target_locked_too_long_names_who_holds_it(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    with target.connect() as holder:
        holder.execute("SET application_name = 'nightly batch'; BEGIN")
        holder.execute(f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE".encode())
        with pytest.raises(StageTimeoutError, match="nightly batch") as caught:
            pipeline.copy(spec(timeouts=Timeouts(publish=1.5)), source.endpoint, target.endpoint)
        assert str(holder.info.backend_pid) in str(caught.value)
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
    nothing_left(source, target)


def test_the_ways_for_which_the_fence_is_asked_once_do_nothing_before(mocker: MockerFixture) -> None:
    """Whatever a run does before its transaction, one that has lost its lock must not."""
    at_once = set(get_args(Strategy)) - publish_module._PREPARING
    assert at_once == {"create", "delete_insert", "insert", "truncate_insert"}
    for way in at_once:
        job = mocker.Mock()
        assert STRATEGIES[way].prepare(job) is None
        assert job.mock_calls == []


@pytest.mark.parametrize(
    "options",
    [{"publish": "delta"}, {"publish": "delete_insert"}, {"write_mode": "append", "append_key": "하루"}],
    ids=["delta", "delete_insert", "append"],
)
def test_a_dump_that_reads_staging_holds_nothing_up(
    filled: tuple[Database, Database],
    nothing_left: NothingLeft,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
) -> None:
    """It locks all tables there are, and would hold up whoever drops one of them for as long as it takes."""
    source, target = filled
    with target.connect() as dump:

        def begin(at: Progress) -> None:
            if at.stage == "verify":
                staged = target.value(
                    "SELECT format('%I', relname) FROM pg_class WHERE relname ~ '고객__safecopy_.*[0-9a-f]{8}$'"
                )
                dump.execute(f"BEGIN; LOCK TABLE safecopy.{staged} IN ACCESS SHARE MODE".encode())

        asked = spec(timeouts=Timeouts(publish=20), **options)
        report = pipeline.copy(asked, source.endpoint, target.endpoint, progress=begin)
        assert report.inserted == 2000
        assert "left behind: safecopy.고객__safecopy_1_" in caplog.text
        dump.rollback()
    pipeline.copy(spec(publish="delta"), source.endpoint, target.endpoint)
    nothing_left(source, target)


def test_readers_with_an_old_snapshot_see_the_old_rows_after_delete_insert(filled: tuple[Database, Database]) -> None:
    source, target = filled
    with target.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        pipeline.copy(spec(publish="delete_insert"), source.endpoint, target.endpoint)
        assert reader.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchall() == [(2,)]
        reader.rollback()
        assert reader.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchall() == [(2000,)]


_RAISING = """
CREATE FUNCTION "영업".refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION '거절' USING ERRCODE = '{code}'; END$$;
CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION "영업".refuse()
"""
_HOPELESS = ("54000", "54011", "42P01", "42703", "42601", "42846", "42P10", "0A000", "2201X", "23514", "44000", "3F000")


@pytest.mark.parametrize(
    ("code", "retryable"), [*((code, False) for code in _HOPELESS), ("40001", True), ("53100", True), ("P0001", True)]
)
def test_an_error_that_would_come_again_is_no_reason_to_retry(
    filled: tuple[Database, Database], code: str, retryable: bool
) -> None:
    """The kind: a server's error about what exists, is allowed, or fits is the same at each try; one of its state passes."""
    source, target = filled
    target.execute(_RAISING.format(code=code, table=TABLE))
    with pytest.raises(StageError) as caught:
        pipeline.copy(spec(publish="delete_insert"), source.endpoint, target.endpoint)
    assert (caught.value.stage, caught.value.sqlstate, caught.value.retryable) == ("publish", code, retryable)


_CHOOSY = """
CREATE FUNCTION "영업".seen(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
    $$BEGIN IF $1 > 0 THEN RAISE EXCEPTION '거절' USING ERRCODE = '{code}'; END IF; RETURN $1; END$$;
CREATE INDEX ON {table} ("영업".seen("번호"))
"""


@pytest.mark.parametrize(("code", "retryable"), [("42P01", False), ("54000", False), ("42846", False), ("40001", True)])
def test_an_index_that_would_fail_again_is_no_reason_to_retry(
    filled: tuple[Database, Database], code: str, retryable: bool
) -> None:
    """The kind: the same as for a publish, where the new table of a swap is built."""
    source, target = filled
    target.execute(_CHOOSY.format(code=code, table=TABLE))
    with pytest.raises(StageError) as caught:
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    assert (caught.value.stage, caught.value.sqlstate, caught.value.retryable) == ("prepare", code, retryable)

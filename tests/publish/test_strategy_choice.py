"""Swap patience: a chosen swap that waits for readers gives way to a way that does not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageTimeoutError
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Timeouts
from tests.conftest import NothingLeft
from tests.support.customers import TABLE, same, spec
from tests.support.database import Database


@contextmanager
def reading(target: Database, statement: str = f"SELECT count(*) FROM {TABLE}") -> Iterator[psycopg.Connection[Any]]:
    """A transaction that has read the target once, and is idle since."""
    with target.connect() as session:
        session.execute("SELECT set_config('application_name', 'idle report', false)")
        session.execute("BEGIN")
        session.execute(statement.encode())
        yield session


def copied(source: Database, target: Database, **options: object) -> CopyReport:
    timeouts = Timeouts(publish=60, lock_wait=30)
    asked = spec(**{"swap_patience": 0.5, "timeouts": timeouts} | options)
    return pipeline.copy(asked, source.endpoint, target.endpoint)


@pytest.mark.parametrize("verify", ["counts", "full"])
def test_an_idle_reader_does_not_hold_up_a_copy_that_may_choose(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture, nothing_left: NothingLeft, verify: str
) -> None:
    """The kind: swap waits for every transaction that has read the table, though another way would not."""
    source, target = filled
    with reading(target) as reader, caplog.at_level(logging.WARNING):
        report = copied(source, target, verify=verify)
        assert reader.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchone() is not None
    assert report.publish == "delta"
    (why,) = [each for each in report.reasons if "instead of swap" in each]
    assert "publish delta instead of swap: it waits for no reader; swap had waited 0.5 s for pid " in why
    assert "idle report" in why
    assert why in caplog.text
    assert (report.rows, report.inserted, report.deleted) == (2000, 2000, 2)
    assert same(source, target)
    assert target.rows("SELECT row_count, proof ->> 'published' IS NULL FROM safecopy.receipt") == [(2000, True)]
    nothing_left(source, target)


def test_without_a_key_the_rows_are_deleted_and_inserted(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute(f'ALTER TABLE {TABLE} DROP CONSTRAINT "고객_pkey"')
    with reading(target):
        report = copied(source, target)
    assert (report.publish, report.rows) == ("delete_insert", 2000)
    assert same(source, target)


def test_columns_the_source_does_not_fill_have_their_defaults(filled: tuple[Database, Database]) -> None:
    """The table that was built for the swap has all columns of the target; only those that are copied go over."""
    source, target = filled
    target.execute(f'ALTER TABLE {TABLE} ADD "등급" text DEFAULT \'보통\', ADD "순번" int GENERATED ALWAYS AS IDENTITY')
    with reading(target):
        report = copied(source, target, columns=["번호", "이름", "금액", "가입"])
    assert (report.publish, report.rows) == ("delta", 2000)
    assert target.value(f"SELECT count(*) FROM {TABLE} WHERE \"등급\" = '보통'") == 2000
    assert target.value(f'SELECT count(DISTINCT "순번") FROM {TABLE}') == 2000
    assert same(source, target, f'SELECT "번호", "이름", "금액", "가입" FROM {TABLE}')


def test_transactions_older_than_rows_of_several_lanes_do_not_hold_it_up_either(
    filled: tuple[Database, Database],
) -> None:
    source, target = filled
    source.execute(
        f"INSERT INTO {TABLE} SELECT g, repeat('가', 30), 1, now() FROM generate_series(3000, 40000) g; ANALYZE {TABLE}"
    )
    with reading(target, "SELECT 1"):
        target_session = target.endpoint
        asked = spec(swap_patience=0.5, parallel=2, timeouts=Timeouts(publish=60))
        with reading(target):
            report = pipeline.copy(asked, source.endpoint, target_session)
    assert report.publish in {"delta", "delete_insert"}
    assert same(source, target)


def test_who_asks_for_a_swap_waits_for_it(filled: tuple[Database, Database]) -> None:
    source, target = filled
    with reading(target), pytest.raises(StageTimeoutError) as caught:
        copied(source, target, publish="swap", timeouts=Timeouts(publish=60, lock_wait=2))
    assert caught.value.retryable
    (told,) = caught.value.blockers
    assert told["application_name"] == "idle report"
    assert "lock_wait_timeout" in caught.value.hint
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2


def test_a_writer_holds_up_the_other_ways_as_well_so_the_swap_waits_on(filled: tuple[Database, Database]) -> None:
    source, target = filled
    with reading(target, f'UPDATE {TABLE} SET "금액" = 5') as writer:
        timer = threading.Timer(3, writer.execute, ["COMMIT"])
        timer.start()
        report = copied(source, target)
        timer.join()
    assert report.publish == "swap"
    assert same(source, target)


def test_rows_that_may_have_changed_in_staging_are_not_published_another_way(
    filled: tuple[Database, Database],
) -> None:
    """A foreign key with an action on the loaded table changes proven rows: then swap's own checks must have the say."""
    source, target = filled
    target.execute(
        'CREATE TABLE "영업"."등급" (no int PRIMARY KEY); INSERT INTO "영업"."등급" VALUES (1);'
        f'ALTER TABLE {TABLE} ADD "등급" int DEFAULT 1 REFERENCES "영업"."등급" ON DELETE SET NULL'
    )
    with reading(target) as reader:
        timer = threading.Timer(3, reader.execute, ["COMMIT"])
        timer.start()
        report = copied(source, target, columns=["번호", "이름", "금액", "가입"])
        timer.join()
    assert report.publish in {"swap", "delta"}
    assert report.rows == 2000
    assert target.value(f'SELECT count(*) FROM {TABLE} WHERE "등급" = 1') == 2000

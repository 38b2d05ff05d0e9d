"""The log is flushed ahead of an import, over a session that nobody uses meanwhile; and nothing depends on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.spec import CopySpec, MiB
from airflow_provider_safecopy.transfer.wal_flush import WalFlush
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.support.database import Database
from tests.support.proxy import Proxy

REFUSE = "REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text{}) FROM PUBLIC"
COMMITS = "SELECT current_setting('synchronous_commit')"
# 24 MiB in the stream: several times what makes a flush.
MANY = "SELECT g AS n, repeat(md5(g::text), 32) AS x FROM generate_series(1, 24576) g"


@contextmanager
def session_of(database: Database) -> Iterator[Session]:
    with open_session(database.endpoint, application_name="safecopy:test", connect_timeout=5) as session:
        yield session


def answered(flush: WalFlush) -> None:
    """Answers are taken as the stream takes them, whenever there is something to read."""
    deadline = time.monotonic() + 5
    while flush.answer_descriptor is not None:
        flush.read_answer()
        assert time.monotonic() < deadline


def rested(flush: WalFlush) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < flush._rested:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("major", [16, 18])
def test_what_is_in_the_log_is_on_disk_afterwards(database: MakeDatabase, major: int) -> None:
    target = database(major=major)
    target.execute("CREATE TABLE t (a text)")
    with session_of(target) as session, target.connect() as other:
        flush, before = WalFlush(session), session.fetch_value(COMMITS)
        other.execute("SET synchronous_commit = off")
        for size in (4 * MiB, 8 * MiB):
            other.execute("INSERT INTO t VALUES ('가')")
            written = other.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            flush.request_flush(size)
            answered(flush)
            rested(flush)
            on_disk = "SELECT pg_current_wal_flush_lsn() >= %s::pg_lsn AND pg_current_wal_flush_lsn() > '0/0'"
            assert other.execute(on_disk, written).fetchone() == (True,)
        assert session.fetch_value(COMMITS) == before


def test_it_is_flushed_once_for_every_four_megabytes_and_never_twice_at_a_time(target: Database) -> None:
    with session_of(target) as session:
        flush = WalFlush(session)
        for size, asks in ((MiB, False), (4 * MiB, True), (7 * MiB, False), (20 * MiB, True), (20 * MiB, False)):
            flush.request_flush(size)
            assert (flush.answer_descriptor is not None) == asks, size
            flush.request_flush(40 * MiB if asks else size)
            answered(flush)
            rested(flush)
        assert session.fetch_value("SELECT 1") == 1


def test_it_rests_as_long_as_it_took(target: Database, proxy: Callable[[Database], Proxy]) -> None:
    wire = proxy(target)
    with session_of(target.through(wire.port)) as session:
        flush = WalFlush(session)
        wire.stall()
        began = time.monotonic()
        flush.request_flush(4 * MiB)
        threading.Timer(0.2, wire.mend).start()
        flush.wait_for_answer()
        took = time.monotonic() - began
        assert took >= 0.2
        flush.request_flush(8 * MiB)
        assert flush.answer_descriptor is None
        rested(flush)
        assert time.monotonic() - began >= 1.9 * took
        flush.request_flush(8 * MiB)
        assert flush.answer_descriptor is not None
        flush.wait_for_answer()


def test_a_transaction_of_the_session_is_left_alone(target: Database) -> None:
    """A commit of ours would be its commit."""
    with session_of(target) as session:
        flush = WalFlush(session)
        with session.connection.transaction():
            session.connection.execute("CREATE TEMP TABLE t ()")
            flush.request_flush(4 * MiB)
            assert flush.answer_descriptor is None


@pytest.mark.parametrize("major", [16, 18])
def test_a_copy_does_without_it_where_it_is_refused(
    database: MakeDatabase, role: MakeRole, source: Database, tmp_path: Path, major: int
) -> None:
    target = database(major=major)
    target.execute(REFUSE.format(", boolean" if major >= 17 else ""))
    least = role(target)
    target.execute(f'CREATE TABLE t (n int, x text); ALTER TABLE t OWNER TO "{least.role}"')
    target.execute(f'GRANT CREATE ON DATABASE "{target.name}" TO "{least.role}"')
    target.execute(f'GRANT CREATE ON SCHEMA public TO "{least.role}"')
    with session_of(least) as session:
        flush = WalFlush(session)
        flush.request_flush(4 * MiB)
        flush.wait_for_answer()
        flush.request_flush(8 * MiB)
        assert flush.answer_descriptor is None, "it is asked for once"
        assert session.fetch_value("SELECT 1") == 1
    spec = CopySpec.of(source_sql=MANY, target_table="public.t", spool_dir=str(tmp_path))
    assert pipeline.copy(spec, source.endpoint, least.endpoint).rows == 24576


def test_a_copy_has_it_done_and_uses_its_session_afterwards(
    source: Database, target: Database, nothing_left: NothingLeft, tmp_path: Path, mocker: MockerFixture
) -> None:
    answer = mocker.spy(WalFlush, "read_answer")
    target.execute("CREATE TABLE t (n int, x text)")
    spec = CopySpec.of(source_sql=MANY, target_table="public.t", spool_dir=str(tmp_path))
    assert pipeline.copy(spec, source.endpoint, target.endpoint).rows == 24576
    assert answer.call_count > 0
    nothing_left(source, target, spool=tmp_path)


def test_a_session_that_is_lost_meanwhile_is_found_by_who_needs_it_next(target: Database) -> None:
    with session_of(target) as session:
        flush = WalFlush(session)
        target.rows("SELECT pg_terminate_backend(%s, 5000)", [session.server.backend])
        for size in (4 * MiB, 8 * MiB):
            flush.request_flush(size)
            flush.wait_for_answer()
        with pytest.raises(psycopg.OperationalError):
            session.connection.execute("SELECT 1")


def test_a_server_that_gives_no_answer_is_not_waited_for_for_ever(
    target: Database, proxy: Callable[[Database], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_safecopy.transfer.wal_flush._ANSWER_SECONDS", 0.3)
    wire = proxy(target)
    with session_of(target.through(wire.port)) as session:
        flush = WalFlush(session)
        wire.stall()
        flush.request_flush(4 * MiB)
        started = time.monotonic()
        flush.wait_for_answer()
        assert 0.3 <= time.monotonic() - started < 3
        assert flush.answer_descriptor is None
        assert session.connection.closed
        flush.request_flush(8 * MiB)
        flush.wait_for_answer()

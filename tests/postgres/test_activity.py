"""Whether a server works for a run: what it says itself, and only of that run's sessions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from airflow_provider_safecopy.postgres.activity import ActivityWatch
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from tests.support.database import Database
from tests.support.proxy import Proxy
from tests.support.until import until

NAME = "safecopy:00000000-0000-0000-0000-00000000000a"


@pytest.fixture
def watch(target: Database) -> Iterator[ActivityWatch]:
    made = ActivityWatch(target.endpoint, application_name=NAME)
    yield made
    made.close()


@contextmanager
def running(target: Database, statement: str, name: str = NAME) -> Iterator[None]:
    """A statement that a session of this name is at, until the block ends."""
    with psycopg.connect(target.conninfo, application_name=name, autocommit=True) as session:
        failed = (psycopg.errors.QueryCanceled, psycopg.errors.AdminShutdown, psycopg.OperationalError)

        def run() -> None:
            try:
                session.execute(statement.encode())
            except failed:
                return

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            target.execute("SELECT pg_terminate_backend(%s)", [session.info.backend_pid])
            thread.join()


def active(target: Database) -> bool:
    return bool(
        target.value(
            "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'safecopy:') "
            "AND state = 'active' AND pid <> pg_backend_pid()"
        )
    )


def test_a_statement_that_is_worked_on_counts(target: Database, watch: ActivityWatch) -> None:
    assert not watch.is_working()
    with running(target, "SELECT count(*) FROM generate_series(1, 1e12::bigint)"):
        until(watch.is_working)
    until(lambda: not watch.is_working())


def test_an_idle_session_and_an_open_transaction_do_not_count(target: Database, watch: ActivityWatch) -> None:
    with psycopg.connect(target.conninfo, application_name=NAME) as session:
        session.execute("SELECT 1")
        assert not watch.is_working()


def test_waiting_for_a_lock_is_not_working(target: Database, watch: ActivityWatch) -> None:
    with target.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        with running(target, "SELECT pg_advisory_lock(1)"):
            until(lambda: bool(target.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))
            assert not watch.is_working()


def test_waiting_for_its_client_is_not_working(target: Database, watch: ActivityWatch) -> None:
    with (
        psycopg.connect(target.conninfo, application_name=NAME, autocommit=True) as session,
        session.cursor() as cursor,
    ):
        rows = cursor.copy("COPY (SELECT repeat('가', 1000) FROM generate_series(1, 100000)) TO STDOUT")
        with rows as stream:
            next(iter(stream))
            until(lambda: bool(target.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'")))
            assert not watch.is_working()
            session.close()


def test_another_runs_work_does_not_count(target: Database, watch: ActivityWatch) -> None:
    with running(target, "SELECT pg_sleep(60)", "safecopy:00000000-0000-0000-0000-00000000000b"):
        until(lambda: active(target))
        assert not watch.is_working()


def test_a_server_that_cannot_be_asked_is_not_known_to_work(caplog: pytest.LogCaptureFixture) -> None:
    watch = ActivityWatch(Endpoint.from_conninfo("host=127.0.0.1 port=1 dbname=없음"), application_name=NAME)
    with caplog.at_level("INFO"):
        assert not watch.is_working()
    assert "cannot be asked" in caplog.text
    watch.close()


def test_a_server_that_falls_silent_is_not_known_to_work_and_is_asked_anew(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    way = proxy(target)
    watch = ActivityWatch(target.through(way.port).endpoint, application_name=NAME)
    with running(target, "SELECT count(*) FROM generate_series(1, 1e12::bigint)"):
        until(watch.is_working)
        way.stall()
        started = time.monotonic()
        assert not watch.is_working()
        assert time.monotonic() - started < 10
        way.mend()
        until(watch.is_working)
    watch.close()


def test_a_lost_connection_is_made_again(target: Database, watch: ActivityWatch) -> None:
    assert not watch.is_working()
    target.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", [NAME])
    with running(target, "SELECT count(*) FROM generate_series(1, 1e12::bigint)"):
        until(watch.is_working)


def test_it_connects_only_when_asked(target: Database, watch: ActivityWatch) -> None:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    assert target.value(asked, [NAME]) == 0
    watch.is_working()
    assert target.value(asked, [NAME]) == 1

"""A connection is given up when its server does not answer in time, and left alone when it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from airflow_provider_safecopy.postgres.wire import LateError, PromptConnection
from tests.support.database import Database
from tests.support.proxy import Proxy

_CHATTER = b"DO $$BEGIN FOR i IN 1..800 LOOP RAISE NOTICE 'on'; PERFORM pg_sleep(0.05); END LOOP; END$$"


@pytest.fixture
def connection(target: Database) -> Iterator[PromptConnection]:
    with PromptConnection.connect(target.conninfo, autocommit=True) as made:
        yield made


def test_a_deadline_takes_no_thread(connection: PromptConnection) -> None:
    """One for each question of each of many small tables was a fourteenth of their time."""
    before = threading.active_count()
    with connection.limit_block(60):
        connection.execute("SELECT 1")
        assert threading.active_count() == before


def test_the_shorter_of_two_deadlines_holds_and_is_for_all_answers_together(connection: PromptConnection) -> None:
    started = time.monotonic()
    with connection.limit_block(1):
        with connection.limit_block(60):
            connection.execute("SELECT pg_sleep(0.7)")
        with pytest.raises(LateError, match="no answer within"), connection.limit_block(60):
            connection.execute("SELECT pg_sleep(40)")
    assert 1 <= time.monotonic() - started < 30


def test_after_its_block_a_deadline_is_over(connection: PromptConnection) -> None:
    with connection.limit_block(0.3):
        connection.execute("SELECT 1")
    connection.execute("SELECT pg_sleep(0.6)")


def test_a_block_may_take_longer_than_its_patience(connection: PromptConnection) -> None:
    connection.patience = 0.3
    with connection.limit_block(30):
        connection.execute("SELECT pg_sleep(0.6)")
    with pytest.raises(LateError, match=r"no answer within 0\.3 s"):
        connection.execute("SELECT pg_sleep(0.6)")


def test_a_server_that_only_chatters_does_not_put_a_deadline_off(connection: PromptConnection) -> None:
    started = time.monotonic()
    with pytest.raises(LateError, match="no answer within"), connection.limit_block(0.5):
        connection.execute(_CHATTER)
    assert time.monotonic() - started < 30


def test_a_network_that_swallows_everything_is_waited_for_no_longer(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    way = proxy(target)
    with PromptConnection.connect(target.through(way.port).conninfo, autocommit=True) as connection:
        way.stall()
        started = time.monotonic()
        with pytest.raises(psycopg.OperationalError), connection.limit_block(0.3):
            connection.execute("SELECT 1")
        assert time.monotonic() - started < 40
        assert connection.closed


def test_what_was_stopped_is_cancelled_and_after_the_block_nothing_is(connection: PromptConnection) -> None:
    stopped = threading.Event()
    started = time.monotonic()
    with connection.unless(stopped.is_set):
        connection.execute("SELECT pg_sleep(0.3)")
        threading.Timer(0.3, stopped.set).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
    assert time.monotonic() - started < 40
    connection.execute("SELECT pg_sleep(0.3)")


def test_a_server_that_does_not_take_a_cancel_is_given_up_at_its_deadline(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    way = proxy(target)
    with PromptConnection.connect(target.through(way.port).conninfo, autocommit=True) as connection:
        way.stall()
        started = time.monotonic()
        with pytest.raises(LateError), connection.limit_block(1), connection.unless(lambda: True):
            connection.execute("SELECT 1")
        assert time.monotonic() - started < 40

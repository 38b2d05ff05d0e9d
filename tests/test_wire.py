"""A connection is cut when its server does not answer in time, and left alone when it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from airflow_provider_safecopy import wire
from tests.ground.database import Database
from tests.ground.proxy import Proxy


def test_an_answer_in_time_leaves_the_connection_as_it_is(target: Database) -> None:
    with target.connect() as session:
        with wire.within(session, 60):
            session.execute("SELECT 1")
        session.execute("SELECT 1")
    assert threading.active_count() == 1 or not any(
        isinstance(thread, threading.Timer) for thread in threading.enumerate()
    )


def test_a_network_that_swallows_everything_is_waited_for_no_longer(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    way = proxy(target)
    with target.through(way.port).connect() as session:
        way.stall()
        started = time.monotonic()
        with pytest.raises(psycopg.OperationalError), wire.within(session, 0.3):
            session.execute("SELECT 1")
        assert time.monotonic() - started < 10
        assert session.closed


def test_a_connection_closed_meanwhile_is_no_matter(target: Database) -> None:
    session = target.connect()
    with wire.within(session, 0.05):
        session.close()
        threading.Event().wait(0.2)

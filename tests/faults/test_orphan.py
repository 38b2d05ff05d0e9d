"""A publish whose client is lost or stands still keeps nobody from the target for long. The soak found that it did."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.publish import transaction
from airflow_provider_safecopy.spec import Timeouts
from tests.faults.conftest import TABLE, Ground
from tests.faults.invariant import Invariant, said
from tests.support.database import Database
from tests.support.proxy import Proxy

MakeProxy = Callable[[Database], Proxy]
NAME = ("영업", "주문_내역")
# Said in the midst of the transaction that swaps the tables.
IN_PUBLISH = b"INSERT INTO safecopy.receipt"


def _read(target: Database, seconds: float) -> int:
    """How many rows a reader finds who waits no longer than so many seconds."""
    with target.connect() as session:
        session.execute(f"SET lock_timeout = {int(seconds * 1000)}".encode())
        ((count,),) = session.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchall()
    return int(count)


def test_a_publish_that_only_we_have_lost_is_ended_on_the_server(ground: Ground, proxy: MakeProxy) -> None:
    wire = proxy(ground.target)
    invariant = Invariant.before(ground.source, ground.target, NAME, ground.spool)
    wire.at_message(IN_PUBLISH, wire.orphan_now)
    with pytest.raises(StageError) as caught:
        pipeline.copy(ground.spec(publish="swap"), ground.source.endpoint, ground.target.through(wire.port).endpoint)
    assert wire.met.is_set()
    assert _read(ground.target, 1) == 2
    assert invariant.hold(said(caught.value)) == "old"
    invariant.recovered(ground.copy)


def test_a_publish_that_stands_still_lets_readers_in(
    ground: Ground, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "_IDLE_SECONDS", 1.0)
    wire = proxy(ground.target)
    invariant = Invariant.before(ground.source, ground.target, NAME, ground.spool)
    seen: list[int | psycopg.Error] = []

    def look() -> None:
        try:
            seen.append(_read(ground.target, 10))
        except psycopg.Error as error:
            seen.append(error)
        wire.mend()

    def stand_still() -> None:
        wire.stall_now()
        threading.Thread(target=look).start()

    wire.at_message(IN_PUBLISH, stand_still)
    began = time.monotonic()
    with pytest.raises(StageError) as caught:
        pipeline.copy(
            ground.spec(publish="swap", timeouts=Timeouts(publish=30)),
            ground.source.endpoint,
            ground.target.through(wire.port).endpoint,
        )
    assert seen == [2]
    assert caught.value.retryable
    assert time.monotonic() - began < 20
    assert invariant.hold(said(caught.value)) == "old"
    invariant.recovered(ground.copy)

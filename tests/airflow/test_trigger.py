"""Waiting for a lock without a worker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from airflow_provider_safecopy.lock import liveness, schema
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Promise
from tests.airflow.conftest import Connect
from tests.support.database import Database
from tests.support.proxy import Proxy

LOCK = "영업_복사"
SOON = 60.0


@pytest.fixture
def held(target: Database, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Iterator[LivingLock]:
    """A lock in the target, connection dw, that somebody holds; whoever waits for it looks often."""
    from airflow_provider_safecopy.triggers import living_lock

    monkeypatch.setattr(living_lock, "POLL_SECONDS", (0.01, 0.02))
    connect("dw", target)
    with target.connect() as session:
        schema.init(session)
    lock = LivingLock(LOCK, target.conninfo)
    lock.acquire()
    yield lock
    lock.release()


def _trigger(seconds: float = SOON) -> Any:
    from airflow_provider_safecopy.triggers.living_lock import LivingLockTrigger

    return LivingLockTrigger(conn_id="dw", lock=LOCK, deadline=time.time() + seconds)


def _fired(trigger: Any, meanwhile: Callable[[asyncio.Task[Any]], Awaitable[None]] | None = None) -> dict[str, Any]:
    """The payload of the first event; `meanwhile` runs beside the trigger."""

    async def main() -> Any:
        waiting = asyncio.ensure_future(anext(trigger.run()))
        if meanwhile is not None:
            await meanwhile(waiting)
        return await asyncio.wait_for(waiting, SOON)

    payload: dict[str, Any] = asyncio.run(main()).payload
    assert json.loads(json.dumps(payload)) == payload
    return payload


async def _looked_at(trigger: Any) -> None:
    """Until the trigger has looked once more, in vain."""
    before, deadline = trigger.looks, time.monotonic() + SOON
    while trigger.looks < before + 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trigger counts its looks."""
    from airflow_provider_safecopy.triggers.living_lock import LivingLockTrigger

    look = LivingLockTrigger._look

    async def counted(trigger: Any) -> Any:
        seen = await look(trigger)
        trigger.looks += 1
        return seen

    monkeypatch.setattr(LivingLockTrigger, "looks", 0, raising=False)
    monkeypatch.setattr(LivingLockTrigger, "_look", counted)


def test_it_travels_by_names_alone(target: Database, connect: Connect) -> None:
    connect("dw", target)
    path, kwargs = _trigger().serialize()
    assert path == "airflow_provider_safecopy.triggers.living_lock.LivingLockTrigger"
    assert kwargs.keys() == {"conn_id", "lock", "deadline"}
    assert type(_trigger())(**kwargs).serialize() == (path, kwargs)
    assert str(conninfo_to_dict(target.conninfo)["password"]) not in json.dumps(kwargs)


def test_the_first_look_is_late_enough_for_airflow() -> None:
    from airflow_provider_safecopy.triggers import living_lock

    assert min(living_lock.POLL_SECONDS) >= 10


@pytest.mark.usefixtures("counting")
def test_it_fires_when_the_holder_lets_go(held: LivingLock) -> None:
    trigger = _trigger()

    async def release(waiting: asyncio.Task[Any]) -> None:
        await _looked_at(trigger)
        assert not waiting.done()
        held.release()

    told = _fired(trigger, release)
    assert (told["status"], told["lock"], told["deadline"]) == ("free", LOCK, trigger.deadline)


def test_it_fires_for_a_lock_that_nobody_ever_held(held: LivingLock) -> None:
    trigger = _trigger()
    trigger.lock = "없는 잠금"
    assert _fired(trigger)["status"] == "free"


def test_it_fires_when_the_holder_is_stale(held: LivingLock, target: Database) -> None:
    target.execute("UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 s'")
    assert _fired(_trigger())["status"] == "stale"


@pytest.mark.usefixtures("counting")
def test_it_fires_when_the_holder_is_quiet_and_has_no_session_any_more(held: LivingLock, target: Database) -> None:
    """With one it is at a long step, or paused: the store would not give its lock away."""
    target.execute("UPDATE safecopy.lock SET alive_at = clock_timestamp() - interval '31 s'")
    trigger = _trigger()

    async def vanish(waiting: asyncio.Task[Any]) -> None:
        await _looked_at(trigger)
        assert not waiting.done()
        held.store.close()

    assert _fired(trigger, vanish)["status"] == "quiet"


@pytest.mark.usefixtures("counting")
def test_a_group_is_quiet_by_nature(target: Database, held: LivingLock) -> None:
    held.release()
    setup = Contender("영업_복사|수동_1", member="acquire_lock", process=None, is_detached=True)
    LivingLock(LOCK, target.conninfo, contender=setup, promise=Promise(3600, None)).acquire().store.close()
    target.execute("UPDATE safecopy.lock SET alive_at = clock_timestamp() - interval '31 s'")
    trigger = _trigger()

    async def not_yet(waiting: asyncio.Task[Any]) -> None:
        await _looked_at(trigger)
        assert not waiting.done()
        trigger.deadline = time.time()

    assert _fired(trigger, not_yet)["status"] == "timeout"


def test_it_fires_when_the_holder_s_process_is_gone(held: LivingLock, target: Database) -> None:
    liveness.remove_note(held.contender)  # a living process has left a note, which counts for more than the row
    target.execute("UPDATE safecopy.member SET place = jsonb_set(place, '{started}', '1')")
    assert _fired(_trigger())["status"] == "quiet"


def test_it_fires_when_the_holder_s_run_is_over(held: LivingLock, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_safecopy.triggers import living_lock

    monkeypatch.setattr(living_lock, "is_finished", lambda holder: holder.name == LOCK)
    assert _fired(_trigger())["status"] == "over"


def test_at_the_deadline_it_says_who_holds_the_lock(held: LivingLock) -> None:
    told = _fired(_trigger(0))
    assert told["status"] == "timeout"
    assert told["holder"]["members"][0]["attempt"] == str(held.contender.attempt)


@pytest.mark.usefixtures("counting")
def test_a_database_that_goes_away_may_come_back(
    held: LivingLock, target: Database, connect: Connect, proxy: Callable[[Database], Proxy]
) -> None:
    wire, trigger = proxy(target), _trigger()
    connect("dw", target.through(wire.port))
    wire.cut()

    async def come_back(waiting: asyncio.Task[Any]) -> None:
        await _looked_at(trigger)
        assert not waiting.done()
        held.release()
        wire.mend()

    assert _fired(trigger, come_back)["status"] == "free"


def test_a_connection_that_is_not_there_is_waited_for_until_the_deadline(held: LivingLock) -> None:
    trigger = _trigger(0)
    trigger.conn_id = "nothing"
    assert _fired(trigger) == {"status": "timeout", "lock": LOCK, "deadline": trigger.deadline, "holder": None}


def test_other_triggers_go_on_while_a_database_does_not_answer(
    held: LivingLock, target: Database, connect: Connect, proxy: Callable[[Database], Proxy]
) -> None:
    wire, trigger = proxy(target), _trigger()
    connect("dw", target.through(wire.port))
    wire.stall()

    async def others(waiting: asyncio.Task[Any]) -> None:
        deadline = time.monotonic() + SOON
        while not wire._wires:  # until it waits for an answer
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        started = time.monotonic()
        for _ in range(100):
            await asyncio.sleep(0)
        assert time.monotonic() - started < 5  # connecting gives up after ten
        assert not waiting.done()
        held.release()
        wire.mend()

    assert _fired(trigger, others)["status"] == "free"


def test_cancelled_in_the_middle_of_a_look_it_leaves_no_session(
    held: LivingLock, target: Database, connect: Connect, proxy: Callable[[Database], Proxy]
) -> None:
    wire, trigger = proxy(target), _trigger()
    connect("dw", target.through(wire.port))
    wire.stall()

    async def main() -> None:
        waiting = asyncio.ensure_future(anext(trigger.run()))
        deadline = time.monotonic() + SOON
        while not wire._wires:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    wire.mend()
    mine = f"safecopy:{held.contender.attempt}"
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'safecopy:%%' AND application_name <> %s"
    deadline = time.monotonic() + SOON
    while target.value(others, [mine]):
        assert time.monotonic() < deadline

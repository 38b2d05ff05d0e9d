"""Waiting for a busy lock where the whole command would be slow to show it: a silent holder, a store that is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.cli import waiting
from airflow_provider_safecopy.cli.waiting import LockWait
from airflow_provider_safecopy.errors import AbortedError, LockBusyError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from tests.support.database import Database
from tests.support.proxy import Proxy

Wire = Callable[[Database], Proxy]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.02)


@pytest.fixture
def store(target: Database) -> Iterator[PostgresStore]:
    """A store in which 밤샘 holds a lock."""
    with target.connect() as session:
        schema.init(session)
    store = PostgresStore(target.endpoint)
    assert isinstance(store.acquire("집계", Contender.alone("밤샘"), Promise()), Lease)
    yield store
    store.close()


def patience(
    store: PostgresStore, said: list[str], *, seconds: float = 20, abort: AbortSwitch | None = None
) -> LockWait:
    return LockWait(store, seconds=seconds, abort=abort or AbortSwitch(), telling=lambda: nullcontext(said.append))


class Attempts:
    """Acquire the lock for another run, and count how often that was tried."""

    def __init__(self, target: Database) -> None:
        self.count = 0
        self._target = target

    def __call__(self) -> str:
        self.count += 1
        with LivingLock("집계", self._target.endpoint, contender=Contender.alone("낮")) as lock:
            return lock.leases[0].kind


def refusals(target: Database) -> int:
    return int(target.value("SELECT count(*) FROM safecopy.lock_event WHERE kind = 'refused'"))


def test_who_waits_asks_without_being_refused_each_time(target: Database, store: PostgresStore) -> None:
    said: list[str] = []
    attempts = Attempts(target)
    with pytest.raises(LockBusyError) as caught:
        patience(store, said, seconds=0.5).until_free(attempts)
    assert (attempts.count, refusals(target)) == (1, 1)
    assert len(said) > 3
    assert said[1].startswith("still waiting for lock 집계, held by 밤샘, host ")
    assert caught.value.__notes__ == ["waited 0.5 s for it"]
    assert caught.value.holder["owner"]["owner"] == "밤샘"


def test_a_silent_holder_is_tried_now_and_then_until_it_may_be_taken(
    target: Database, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = "UPDATE safecopy.lock SET alive_at = now() - interval '45 seconds', crash_grace = %s"
    target.execute(silent, ["1 minute"])
    attempts = Attempts(target)
    with pytest.raises(LockBusyError):
        patience(store, [], seconds=0.5).until_free(attempts)
    assert attempts.count == 1, "not again so soon"
    monkeypatch.setattr(waiting, "_ATTEMPT_SECONDS", 0.0)
    target.execute(silent, ["40 seconds"])
    assert patience(store, []).until_free(attempts) == "takeover-crash"


def test_a_store_that_is_away_for_a_while_is_waited_for_too(
    target: Database, store: PostgresStore, proxy: Wire
) -> None:
    wire = proxy(target)
    away = PostgresStore(target.through(wire.port).endpoint)
    attempts = Attempts(target)
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            wire.close()  # from now on the store cannot be asked
        if len(said) == 4:
            target.execute("UPDATE safecopy.lock SET due_at = now() - interval '1 second'")

    impatient = LockWait(away, seconds=1, abort=AbortSwitch(), telling=lambda: nullcontext(tell))
    with pytest.raises(LockBusyError):
        impatient.until_free(attempts)
    assert len(said) > 4, "it went on waiting, and did not fail"
    away.close()


def test_an_abort_ends_the_waiting(target: Database, store: PostgresStore) -> None:
    abort = AbortSwitch()

    def tell(text: str) -> None:
        abort.throw("SIGINT")

    with pytest.raises(AbortedError, match="SIGINT"):
        LockWait(store, seconds=600, abort=abort, telling=lambda: nullcontext(tell)).until_free(Attempts(target))

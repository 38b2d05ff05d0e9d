"""Evicted members of a lock cannot publish any more; the other members do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from airflow_provider_safecopy.errors import FencedOutError, LockLostError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from airflow_provider_safecopy.pipeline.reap import evict
from tests.support.database import Database

NAME = "야간"
RUN = Contender("run", {"dag": "야간"}, member="acquire", is_detached=True, process=None)


@pytest.fixture
def store(target: Database) -> Iterator[PostgresStore]:
    with target.connect() as session:
        schema.init(session)
    with closing(PostgresStore(target.endpoint)) as store:
        yield store


def _member(store: PostgresStore, member: str) -> Lease:
    lease = store.acquire(NAME, replace(RUN, member=member, attempt=uuid4()), Promise())
    assert isinstance(lease, Lease)
    return lease


def _holder(store: PostgresStore) -> Holder:
    holder = store.read_holder(NAME)
    assert holder is not None
    return holder


def test_who_is_evicted_is_fenced_out_and_the_others_stay(target: Database, store: PostgresStore) -> None:
    stays, leaves = _member(store, "남음"), _member(store, "떠남")
    holder = _holder(store)
    assert not evict(store, holder, [seen for seen in holder.members if seen.member == "떠남"])
    with pytest.raises(LockLostError):
        store.heartbeat(leaves, phase=1, count=1)
    with target.connect() as session:
        with pytest.raises(FencedOutError):
            check_fence(session, leaves)
        check_fence(session, stays)
    store.heartbeat(stays, phase=1, count=1)
    assert evict(store, _holder(store), _holder(store).members)
    assert store.read_holder(NAME) is None


@pytest.mark.parametrize("others", [True, False], ids=["others stay", "nobody stays"])
def test_who_is_publishing_is_ended_in_the_midst_of_it(target: Database, store: PostgresStore, *, others: bool) -> None:
    """An open publish holds its row of the lock until COMMIT, so that the eviction would wait for it."""
    leaves = _member(store, "발행")
    if others:
        _member(store, "남음")
    target.execute("CREATE TABLE 발행 (n int)")
    publisher = leaves.contender
    with target.endpoint.connect(application_name=f"safecopy:{publisher.attempt}", connect_timeout=10) as session:
        session.execute("BEGIN")
        check_fence(session, leaves)
        session.execute("INSERT INTO 발행 VALUES (1)")
        holder = _holder(store)
        freed = evict(store, holder, [seen for seen in holder.members if seen.member == "발행"])
        assert freed == (not others)
        with pytest.raises(psycopg.OperationalError):
            session.execute("COMMIT")
    assert target.value("SELECT count(*) FROM 발행") == 0
    assert (store.read_holder(NAME) is not None) == others


def test_a_lock_that_changed_hands_meanwhile_is_left_alone(store: PostgresStore) -> None:
    _member(store, "떠남")
    holder = _holder(store)
    assert store.force_release(NAME, reason="시험") is not None
    other = store.acquire(NAME, Contender.alone("다른 실행"), Promise())
    assert isinstance(other, Lease)
    assert not evict(store, holder, holder.members)
    store.heartbeat(other, phase=1, count=1)

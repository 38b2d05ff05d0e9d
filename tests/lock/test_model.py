"""The values of a lock: promises that make sense, intervals that keep them, and how people are told of owners."""

from __future__ import annotations

import json
import os
import pickle
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.lock.model import (
    Contender,
    DisplacedHolder,
    Holder,
    Lease,
    Member,
    Promise,
    describe_owner,
    format_application_name,
)
from airflow_provider_safecopy.lock.process import ProcessIdentity

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PLACE = ProcessIdentity("작업기-1", 4321, "부팅", 5, 99)
SEEN = Member("복사[3]", "0f" * 16, 2, PLACE, 1, 42, NOON + timedelta(minutes=1))
HOLDER = Holder(
    name="분석.고객",
    token=7,
    owner_key="배치|야간|run1",
    owner={"deployment": "운영", "dag": "야간 집계", "run": "run1", "started": "2026-01-01"},
    members=(SEEN,),
    granted_at=NOON,
    alive_at=NOON + timedelta(minutes=2),
    progressed_at=NOON + timedelta(minutes=1),
    due_at=NOON + timedelta(minutes=11),
    asked_at=NOON + timedelta(minutes=3),
)
positive = st.floats(min_value=1e-3, max_value=1e6)


@pytest.mark.parametrize("option", ["stale_after", "crash_grace"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "600", [1]])
def test_a_promise_is_of_positive_seconds(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option) as caught:
        Promise(**{option: value})  # type: ignore[arg-type] # whatever a DAG's author may write
    assert repr(value) in str(caught.value)


def test_only_the_grace_may_be_none() -> None:
    assert Promise(600, None).crash_grace is None
    with pytest.raises(ConfigError, match="stale_after=None"):
        Promise(stale_after=None)  # type: ignore[arg-type] # as above


@given(positive, st.none() | positive)
def test_heartbeats_come_often_enough_for_both_promises_and_not_too_often(stale: float, grace: float | None) -> None:
    promise = Promise(stale, grace)
    assert 0.05 <= promise.interval <= 5
    shortest = min(stale, grace or stale)
    assert promise.interval <= shortest / 5 or promise.interval == 0.05
    assert promise.interval == 5 or promise.interval == pytest.approx(max(0.05, shortest / 5))


@given(positive)
def test_the_holder_stops_itself_a_while_before_its_promise_ends(stale: float) -> None:
    promise = Promise(stale)
    assert 0 < promise.margin <= 30
    assert promise.margin <= stale / 10 * (1 + 1e-9)


def test_what_is_promised_when_nobody_says_otherwise() -> None:
    assert (Promise().stale_after, Promise().crash_grace) == (600, 30)
    assert (Promise().interval, Promise().margin) == (5, 30)


def test_who_is_alone_shares_with_nobody() -> None:
    one, two = Contender.alone("집계"), Contender.alone("집계")
    assert one.owner_key != two.owner_key
    assert one.attempt != two.attempt
    assert one.owner == {"owner": "집계", "host": socket.gethostname()}
    assert one.process is not None
    assert one.process.pid == os.getpid()
    assert (one.member, one.try_number, one.is_detached) == ("main", 1, False)
    assert Contender.alone().label == "unnamed"


def test_each_contender_is_another_attempt() -> None:
    assert Contender("r1").attempt != Contender("r1").attempt


def test_a_label_is_the_owner_or_its_key_member_and_try() -> None:
    assert Contender.alone("집계").label == "집계"
    assert Contender("배치|야간|run1", {"dag": "야간"}, "복사[3]", 2).label == "배치|야간|run1|복사[3]|2"


def test_sessions_are_called_by_their_attempt() -> None:
    attempt = UUID("0" * 31 + "1")
    assert format_application_name(attempt) == f"safecopy:{attempt}"
    assert len(format_application_name(uuid4())) < 64  # what the server keeps of it


def test_a_lease_is_its_contenders() -> None:
    contender = Contender("r1")
    lease = Lease("분석.고객", 1, uuid4(), contender)
    assert lease.attempt == contender.attempt
    assert pickle.loads(pickle.dumps(lease)) == lease


@pytest.mark.parametrize(
    ("owner", "told"),
    [
        ({}, "열쇠"),
        ({"owner": "집계"}, "집계"),
        ({"owner": "집계", "host": "작업기-1"}, "집계, host 작업기-1"),
        ({"dag": "야간 집계", "run": "r1", "task": "복사"}, "dag 야간 집계, run r1, task 복사"),
        ({"deployment": "운영", "dag": "야간", "started": "2026"}, "dag 야간"),
        ({"deployment": "운영", "started": "2026"}, "열쇠"),
    ],
)
def test_owners_are_told_without_what_only_tells_machines_apart(owner: dict[str, str], told: str) -> None:
    assert describe_owner(owner, "열쇠") == told
    assert str(DisplacedHolder("열쇠", owner, 1, (), ())) == told
    assert str(replace(HOLDER, owner=owner, owner_key="열쇠")) == told


def test_a_holder_knows_when_it_may_be_taken() -> None:
    assert HOLDER.seconds_to_takeover == 480
    assert replace(HOLDER, asked_at=NOON + timedelta(hours=1)).seconds_to_takeover == 0
    free = replace(HOLDER, owner_key=None, owner={}, members=())
    assert free.seconds_to_takeover == 0
    assert replace(free, not_before=NOON + timedelta(minutes=4)).seconds_to_takeover == 60
    assert replace(HOLDER, not_before=NOON + timedelta(hours=4)).seconds_to_takeover == 480
    assert str(free) == "no holder"


def test_a_holder_is_plain_json() -> None:
    told = json.loads(json.dumps(HOLDER.as_dict(), ensure_ascii=False))
    assert told["name"] == "분석.고객"
    assert told["owner"] == dict(HOLDER.owner)
    assert told["takeable_in"] == 480
    assert (told["stale"], told["refused"], told["token"]) == (False, 0, 7)
    for key, at in (("since", HOLDER.granted_at), ("last_progress", HOLDER.progressed_at), ("due", HOLDER.due_at)):
        assert datetime.fromisoformat(told[key]) == at
    (member,) = told["members"]
    assert (member["member"], member["try"], member["attempt"]) == ("복사[3]", 2, "0f" * 16)
    assert (member["host"], member["pid"]) == ("작업기-1", 4321)
    (placeless,) = replace(HOLDER, members=(replace(SEEN, process=None),)).as_dict()["members"]
    assert (placeless["host"], placeless["pid"]) == (None, None)

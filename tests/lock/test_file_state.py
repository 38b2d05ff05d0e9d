"""The state of a lock in a file: kept as it is, refused when it is something else, and moved to the clock of a new boot."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_provider_safecopy.lock.file_state import LockState
from airflow_provider_safecopy.lock.model import Contender, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity

PLACE = ProcessIdentity("호스트", 7, "부팅 1", 5, 99, may_end=True)
FREE = LockState("분석.고객\n\ud800", token=3, boot="부팅 1", written_at=1000.0, written_wall=5000.0)
ONE = Contender("r1", {"dag": "야간"}, "하나", process=PLACE)
TWO = Contender("r1", {"dag": "야간"}, "둘", process=None, is_detached=True)
HELD = FREE.grant(ONE, Promise(600, 60), "grant", 1000.0).grant(TWO, Promise(600, None), "join", 1010.0)


def test_it_comes_back_as_it_was() -> None:
    for state in (
        FREE,
        HELD,
        replace(FREE, not_before=1234.5),
        HELD.revoke_member("하나").record_heartbeat("둘", (1, 2), 1020.0),
    ):
        assert LockState.from_json(state.as_json()) == state


def test_a_person_can_read_it() -> None:
    assert "분석.고객" in HELD.as_json().decode("utf-8", "surrogatepass")


def test_a_part_of_it_is_refused() -> None:
    content = HELD.as_json()
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"line|decode"):
            LockState.from_json(content[:length])


def test_a_newer_layout_and_an_unknown_fact_are_refused() -> None:
    told = json.loads(FREE.as_json())
    with pytest.raises(ValueError, match="layout is 2, not 1"):
        LockState.from_json(json.dumps(told | {"layout": 2}).encode())
    with pytest.raises(TypeError):
        LockState.from_json(json.dumps(told | {"unknown": 2}).encode())
    with pytest.raises(KeyError):
        LockState.from_json(b"{}")


def test_on_its_own_boot_it_stays_as_it_is_whatever_the_walls_clock_says() -> None:
    assert HELD.rebase("부팅 1", now=2000.0, wall=0.0) is HELD


def test_after_a_reboot_only_what_the_walls_clock_counted_has_passed() -> None:
    state = replace(HELD, not_before=1500.0, written_at=1010.0, written_wall=5000.0)
    moved = state.rebase("부팅 2", now=20.0, wall=5100.0)
    shift = 20.0 - 100.0 - 1010.0
    assert moved.boot == "부팅 2"
    assert (moved.due_at, moved.alive_at) == (state.due_at + shift, state.alive_at + shift)
    assert (moved.granted_at, moved.not_before) == (state.granted_at + shift, 1500.0 + shift)
    assert [each.progressed_at for each in moved.members.values()] == [1000.0 + shift, 1010.0 + shift]
    assert (moved.token, moved.lease_id, moved.attempts) == (state.token, state.lease_id, state.attempts)
    assert moved.due_at - 20.0 == pytest.approx(600 - 100)


def test_a_walls_clock_that_was_set_back_lets_no_time_pass() -> None:
    moved = replace(HELD, written_at=1010.0).rebase("부팅 2", now=20.0, wall=0.0)
    assert moved.due_at - 20.0 == pytest.approx(600)


def test_of_an_earlier_boot_no_process_lives_but_who_is_detached_has_none() -> None:
    assert HELD.find_ended("부팅 1") == set()
    assert HELD.find_ended("부팅 2") == {str(ONE.attempt)}
    assert HELD.find_ended(None) == set()
    joined = HELD.rebase("부팅 2", now=20.0, wall=5100.0).grant(
        Contender("r1", member="셋", process=None), Promise(), "join", 20.0
    )
    assert joined.find_ended("부팅 2") == {str(ONE.attempt)}

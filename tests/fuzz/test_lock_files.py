"""The files of a lock: read back as they were written; and whatever else lies there, the store answers or says which file.

A state that cannot be read is never taken for a free lock: nobody is granted it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.errors import LockLostError, LockStoreError, SafeCopyError
from airflow_provider_safecopy.lock import file_record
from airflow_provider_safecopy.lock.file_record import FileHistory, FileRecord
from airflow_provider_safecopy.lock.file_state import LockState, MemberState
from airflow_provider_safecopy.lock.file_store import FileStore, read_boot_clock
from airflow_provider_safecopy.lock.model import Contender, Event, Lease, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity
from tests.fuzz.depth import looking
from tests.fuzz.material import broken, json_values, spoiled
from tests.fuzz.tried import tried

NAME = "분석.고객"
NOW = read_boot_clock()
PLACE = ProcessIdentity("호스트", 2**22 + 1, "부팅 1", 5, 99)
ATTEMPT = UUID("0f" * 16)
MINE = Contender("r1", {"dag": "야간"}, "하나", attempt=ATTEMPT, process=PLACE)
HELD = replace(
    LockState(NAME, token=3, boot=ProcessIdentity.read_current().boot_id, written_at=NOW, written_wall=5000.0)
    .grant(MINE, Promise(600, 60), "grant", NOW)
    .grant(Contender("r1", {"dag": "야간"}, "둘", process=None, is_detached=True), Promise(600, 60), "join", NOW),
    lease_id=str(UUID("0a" * 16)),
)
LEASE = Lease(NAME, HELD.token, UUID("0a" * 16), MINE)
PIECES = (
    *(b"null", b"-1", b"NaN", b"Infinity", b"1e300", b"9" * 5000, b"[" * 3000, b"{", b'"', b"\\ud800", b"\xed\xa0\x80"),
    *(b"true", b"\xff", b'"token": 1, ', b"\n", b"\0", b"../../", b",", b'"2026-01-01"', b"0001-01-01T00:00:00+14:00"),
)

seconds = st.floats(0, 1e9)
places = st.builds(
    ProcessIdentity, broken, st.integers(1, 1 << 22), st.none() | broken, st.none() | st.integers(0, 1 << 32)
)
members = st.builds(
    MemberState, st.uuids().map(str), st.integers(0, 99), st.booleans(), st.none() | places, st.none() | broken, seconds
)
free = st.builds(
    LockState,
    st.just(NAME),
    token=st.integers(0, (1 << 63) - 1),
    granted_at=seconds,
    alive_at=seconds,
    due_at=seconds,
    stale_after=seconds,
    crash_grace=st.none() | seconds,
    not_before=st.none() | seconds,
    refused=st.integers(0, 1 << 40),
    boot=st.none() | broken,
    written_at=seconds,
    written_wall=seconds,
)
holders = st.fixed_dictionaries(
    {
        "lease_id": st.uuids().map(str),
        "owner_key": broken,
        "owner": st.dictionaries(broken, broken, max_size=3),
        "members": st.dictionaries(broken, members, min_size=1, max_size=3),
    }
)
states = free | st.builds(lambda state, holder: replace(state, **holder), free, holders)
zones = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-14 * 60, 14 * 60))
events = st.builds(
    Event,
    st.datetimes(timezones=zones),
    broken,
    st.integers(0, (1 << 63) - 1),
    st.sampled_from(("grant", "refused", "takeover-stale")),
    st.none() | broken,
    st.dictionaries(broken, broken, max_size=3),
    st.none() | broken,
    st.none() | st.uuids().map(str),
    st.none() | broken,
    st.dictionaries(broken, broken | st.dictionaries(broken, broken, max_size=2), max_size=2),
)
ASKED: dict[str, Callable[[FileStore], Any]] = {
    "acquire": lambda store: store.acquire(NAME, Contender("r9"), Promise()),
    "heartbeat": lambda store: store.heartbeat(LEASE, phase=1, count=1),
    "release": lambda store: store.release(LEASE, at_least=1),
    "revoke": lambda store: store.revoke(LEASE),
    "force_release": lambda store: store.force_release(NAME, reason="퍼즈"),
    "reap": lambda store: store.reap(NAME, overdue=1),
    "holder": lambda store: store.read_holder(NAME),
    "holders": lambda store: [holder.as_dict() for holder in store.read_holders()],
    "refused": lambda store: store.record_refusal(NAME, Contender("r9")),
    "history": lambda store: store.read_history(),
    "forget": lambda store: store.forget(keep=60),
}


@st.composite
def twisted(draw: st.DrawFn) -> bytes:
    """A state with a few facts of another kind."""
    told: Any = json.loads(HELD.as_json())
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(("state", "member", "place", "owner")))
        into = told if place == "state" else told["owner"] if place == "owner" else told["members"]["하나"]
        into = into["place"] if place == "place" and isinstance(into.get("place"), dict) else into
        assume(into)
        into[draw(st.sampled_from(sorted(into)))] = draw(json_values)
        assume(isinstance(told["members"], dict) and isinstance(told["owner"], dict))
        assume(isinstance(told["members"].get("하나"), dict))
    return json.dumps(told).encode()


@looking(2)
@given(states)
def test_a_state_is_read_as_it_was_written(state: LockState) -> None:
    assert LockState.from_json(state.as_json()) == state


@looking(2)
@given(st.lists(events, max_size=4))
def test_a_history_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, told: list[Event]) -> None:
    history = FileHistory(tmp_path_factory.getbasetemp() / "기록.history")
    history.path.unlink(missing_ok=True)
    for event in told:
        history.append(event)
    assert history.read_events() == told


@looking(2)
@given(broken, st.uuids())
def test_any_name_has_files_of_its_own_that_a_disk_can_hold(name: str, attempt: UUID) -> None:
    record = FileRecord.for_lock(Path("/tmp"), name)
    longest = os.fsencode(record._flock_path(str(attempt)).name)
    assert len(longest) <= 255
    assert b"/" not in longest
    assert b"\0" not in longest
    assert FileRecord.for_lock(Path("/tmp"), f"{name}x") != record


def answers(directory: Path, raw: bytes, ask: str, *, history: bytes = b"") -> bool:
    """Ask a store about a lock whose state is `raw`. Whether it could; else it named the file, and granted nothing."""
    record = FileRecord.for_lock(directory, NAME)
    directory.mkdir(exist_ok=True)
    (directory / f"{record.stem}.state").write_bytes(raw)
    (directory / f"{record.stem}.history").write_bytes(history)
    store = FileStore(directory)
    found = tried(SafeCopyError, lambda: ASKED[ask](store))
    store.close()
    if isinstance(found, LockStoreError):
        assert record.stem in found.message
        assert not found.retryable
        assert (directory / f"{record.stem}.state").read_bytes() == raw
        return False
    assert ask == "heartbeat" or not isinstance(found, LockLostError)
    return True


@looking(3)
@given(
    twisted() | spoiled(st.just(HELD.as_json()), PIECES) | json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(sorted(ASKED)),
)
@example(HELD.as_json().replace(b'"token": 4', b'"token": "4"'), "force_release")
@example(HELD.as_json().replace(str(ATTEMPT).encode(), b"../../../../tmp/x"), "force_release")
@example(b"[" * 200_000, "acquire")
def test_a_spoiled_state_is_one_or_refused_by_its_file(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, ask: str
) -> None:
    answers(tmp_path_factory.getbasetemp() / "잠금", raw, ask)


def _line(event: Event) -> bytes:
    return json.dumps(asdict(event) | {"at": event.at.isoformat()}).encode() + b"\n"


SOME = Event(datetime(2026, 1, 1, tzinfo=UTC), NAME, 3, "grant", "r1", {"dag": "야간"}, "하나", None, None, {})


@st.composite
def odd_lines(draw: st.DrawFn) -> bytes:
    """A line with a few facts of another kind."""
    told = json.loads(_line(SOME))
    for _ in range(draw(st.integers(1, 2))):
        told[draw(st.sampled_from(sorted(told)))] = draw(json_values)
    return json.dumps(told).encode() + b"\n"


@looking(3)
@given(
    st.lists(odd_lines() | spoiled(st.just(_line(SOME)), PIECES) | st.just(_line(SOME)), max_size=4).map(b"".join),
    st.sampled_from(("history", "forget", "acquire", "force_release")),
)
@example(_line(SOME) + _line(SOME).replace(b"+00:00", b""), "history")
@example(b"[" * 200_000 + b"\n" + _line(SOME), "forget")
def test_spoiled_lines_of_a_history_are_left_out(
    tmp_path_factory: pytest.TempPathFactory, lines: bytes, ask: str
) -> None:
    directory = tmp_path_factory.getbasetemp() / "잠금의 기록"
    assert answers(directory, HELD.as_json(), ask, history=lines)
    for event in FileStore(directory).read_history():
        assert event.at.tzinfo is not None
        assert isinstance(event.name, str)
        assert isinstance(event.token, int)
        assert all(isinstance(word, str) for pair in event.owner.items() for word in pair)


@pytest.mark.parametrize("ask", sorted(ASKED))
@pytest.mark.parametrize(
    ("fact", "value"),
    [("token", "4"), ("token", True), ("due_at", float("nan")), ("due_at", 1e300), ("stale_after", "x"), ("owner", [])],
)
def test_a_state_whose_facts_are_of_another_kind_is_refused(tmp_path: Path, ask: str, fact: str, value: object) -> None:
    """Found: TypeError and OverflowError when the state was used, after it had been read without a word."""
    raw = json.dumps(json.loads(HELD.as_json()) | {fact: value}).encode()
    assert answers(tmp_path / "잠금", raw, ask) == (ask == "history")


def test_a_state_of_another_lock_is_refused(tmp_path: Path) -> None:
    """Found: a file copied under another lock's name was taken for that lock's, and its own written under both."""
    raw = replace(HELD, name="분석.주문").as_json()
    assert not answers(tmp_path / "잠금", raw, "acquire")


def test_an_attempt_that_is_no_uuid_names_no_file(tmp_path: Path) -> None:
    """Found: it became a part of a path, and that file was removed with the holder's."""
    raw = HELD.as_json().replace(str(ATTEMPT).encode(), b"x/../../precious")
    directory = tmp_path / "잠금"
    directory.mkdir()
    (directory / f"{FileRecord.for_lock(directory, NAME).stem}.x").mkdir()
    (tmp_path / "precious.life").write_text("그대로")
    assert not answers(directory, raw, "force_release")
    assert (tmp_path / "precious.life").read_text() == "그대로"


def test_a_state_nested_beyond_measure_is_refused(tmp_path: Path) -> None:
    """Found: RecursionError."""
    assert not answers(tmp_path / "잠금", b"[" * 200_000, "acquire")


def test_a_place_of_a_later_version_is_read(tmp_path: Path) -> None:
    """Found: TypeError, in whoever met a holder whose place said more than this version knows."""
    assert ProcessIdentity.from_dict(PLACE.as_dict() | {"container": "3f"}) == PLACE


def test_a_moment_without_a_zone_spoils_no_history(tmp_path: Path) -> None:
    """Found: TypeError where it was compared with one that has a zone."""
    lines = _line(SOME).replace(b"+00:00", b"") + _line(SOME)
    assert answers(tmp_path / "잠금", HELD.as_json(), "forget", history=lines)


def test_a_history_keeps_its_bound_when_its_lines_are_of_something_else(tmp_path: Path) -> None:
    history = FileHistory(tmp_path / "기록")
    history.path.write_bytes((b"?" * 127 + b"\n") * (file_record.MAX_BYTES // 100))
    history.append(SOME)
    assert history.read_events() == [SOME]
    assert history.path.stat().st_size < 1000


def test_the_same_lock_has_the_same_files_whatever_the_locale(tmp_path: Path) -> None:
    """Found: its name was written in the locale's encoding, so that two users' runs each had a lock of their own."""
    program = (
        "import sys, pathlib; from airflow_provider_safecopy.lock.file_store import FileStore;"
        "from airflow_provider_safecopy.lock.model import Contender, Promise;"
        "told = FileStore(sys.argv[1]).acquire('\\ubd84\\uc11d.\\uace0\\uac1d', Contender('r2'), Promise());"
        "print(sys.getfilesystemencoding(), type(told).__name__)"
    )
    store = FileStore(tmp_path / "locks")
    store.acquire(NAME, Contender("r1"), Promise())
    asked = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "locks")],
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    store.close()
    assert (asked.stdout.split(), asked.stderr) == ([b"ascii", b"Holder"], b"")

"""The history of a lock in a file: whole lines only, in order, and not for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow_provider_safecopy.lock import file_record
from airflow_provider_safecopy.lock.file_record import FileHistory
from airflow_provider_safecopy.lock.model import Event

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVENT = Event(
    at=NOON,
    name="분석.고객\n\ud800",
    token=7,
    kind="takeover-stale",
    owner_key="r2",
    owner={"dag": "야간\r\n집계"},
    member="복사[3]",
    attempt="0f" * 16,
    prev_owner_key="r1",
    detail={"from": {"dag": "주간"}},
)


def test_events_come_back_as_they_were_the_oldest_first(tmp_path: Path) -> None:
    history = FileHistory(tmp_path / "기록")
    assert history.read_events() == []
    bare = Event(NOON + timedelta(microseconds=1), "이름", 1, "force-release", None, {}, None, None, None, {})
    history.append(EVENT)
    history.append(bare)
    assert history.read_events() == [EVENT, bare]
    assert history.path.stat().st_mode & 0o777 == 0o600


def test_a_torn_line_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    history = FileHistory(tmp_path / "기록")
    history.append(EVENT)
    content = history.path.read_bytes()
    for cut in range(1, len(content) - 1, 7):
        history.path.write_bytes(content + content[:cut])
        assert history.read_events() == [EVENT]
        history.append(replace(EVENT, token=8))
        assert history.read_events() == [EVENT, replace(EVENT, token=8)]


def test_lines_of_something_else_are_left_out(tmp_path: Path) -> None:
    history = FileHistory(tmp_path / "기록")
    history.path.write_bytes(b'\n[]\n7\n{}\n{"at": 7}\n{"at": "2026-01-01"}\n\xff\xfe\n')
    history.append(EVENT)
    assert history.read_events() == [EVENT]


def test_the_older_half_goes_when_there_is_too_much(tmp_path: Path) -> None:
    history = FileHistory(tmp_path / "기록")
    history.append(EVENT)
    size = history.path.stat().st_size
    assert file_record.MAX_BYTES / size > 2000
    with history.path.open("ab") as file:
        file.write(history.path.read_bytes() * (file_record.MAX_BYTES // size))
    history.append(replace(EVENT, token=8))
    kept = history.read_events()
    assert history.path.stat().st_size < file_record.MAX_BYTES * 0.6
    assert kept[-1].token == 8
    assert len(kept) > 1000
    history.append(replace(EVENT, token=9))
    assert history.read_events() == [*kept, replace(EVENT, token=9)]


def test_forget_removes_what_is_older(tmp_path: Path) -> None:
    history = FileHistory(tmp_path / "기록")
    assert history.drop_older(NOON) == 0
    for hours in range(5):
        history.append(replace(EVENT, at=NOON + timedelta(hours=hours), token=hours))
    assert history.drop_older(NOON + timedelta(hours=3)) == 3
    assert [event.token for event in history.read_events()] == [3, 4]
    assert history.drop_older(NOON + timedelta(hours=3)) == 0

"""Errors as a person reads them."""

from __future__ import annotations

import time

import pytest

from airflow_provider_safecopy.cli.failure import format_error
from airflow_provider_safecopy.errors import (
    AbortedError,
    ConfigError,
    FencedOutError,
    LockBusyError,
    LockLostError,
    LockStoreError,
    PlanError,
    PublishUnknownError,
    Refusal,
    SafeCopyError,
    StageError,
    VerifyError,
)

COPY = "영업.고객 -> 분석.고객"


def test_a_failed_stage() -> None:
    error = StageError(
        "export: ended too early",
        stage="export",
        exit_code=3,
        sqlstate="57014",
        stderr_tail="ERROR:  57014: 취소\nLINE 1\n",
        hint="ask the administrator",
    )
    assert format_error(error, subject=COPY) == (
        "safecopy: export failed: export: ended too early\n"
        "  copy    영업.고객 -> 분석.고객\n"
        "  stage   export (psql exit code 3, SQLSTATE 57014)\n"
        "  psql    ERROR:  57014: 취소\n"
        "          LINE 1\n"
        "  target  unchanged, nothing was published\n"
        "  next    ask the administrator"
    )


def test_a_refused_plan_gives_each_reason_with_its_next_step() -> None:
    refusals = (
        Refusal("no_such_table", "분석.고객: no such table", hint="check the spelling"),
        Refusal("type_differs", "분석.고객.이름 is text", hint="cast it"),
    )
    assert format_error(PlanError(refusals), subject=COPY) == (
        "safecopy: refused: nothing was touched, for 2 reasons\n"
        "  copy     영업.고객 -> 분석.고객\n"
        "  because  분석.고객: no such table [no_such_table]\n"
        "  next     check the spelling\n"
        "  because  분석.고객.이름 is text [type_differs]\n"
        "  next     cast it\n"
        "  target   unchanged, nothing was published"
    )


@pytest.mark.parametrize(
    "error, title, words",
    [
        (ConfigError("no such option"), "bad request", "--help"),
        (LockStoreError("no", sqlstate="42501"), "the lock cannot be used", "server  SQLSTATE 42501"),
        (VerifyError("differ", proofs={"rows": "1 and 2"}), "verification failed", "rows: 1 and 2"),
        (LockLostError("lock l: taken", lock="l", token=1), "lock lost", "may succeed when run again"),
        (FencedOutError("newer", lock="l", token=1), "fenced out", "the run that holds the lock now publishes"),
        (AbortedError("SIGINT"), "aborted: SIGINT", "run it again"),
        (StageError("e", stage="connect"), "connect failed", "may succeed when run again"),
        (StageError("e", stage="connect", retryable=False), "connect failed", "will fail again"),
        (SafeCopyError("e"), "failed: e", "will fail again"),
    ],
)
def test_each_error_has_a_title_and_a_next_step(error: SafeCopyError, title: str, words: str) -> None:
    text = format_error(error)
    assert text.startswith(f"safecopy: {title}")
    assert words in text
    assert "target  " not in text


def test_an_unknown_outcome_does_not_claim_that_nothing_was_published() -> None:
    text = format_error(PublishUnknownError("lost", table="분석.고객", token=7, attempt="a-b"), subject=COPY)
    assert "target  old rows or new rows, whole in either case; which of them is not known" in text
    assert "look in safecopy.receipt for token 7, attempt a-b" in text


def test_notes_are_told() -> None:
    error = AbortedError("SIGTERM")
    error.add_note("and the server sessions could not be ended")
    assert "and the server sessions could not be ended" in format_error(error)


def test_what_would_steer_a_terminal_is_escaped() -> None:
    error = StageError("table \x1b[2J\x07 \u202e", stage="export", stderr_tail="bad \x1b]0;title\x07\r name")
    assert not set(format_error(error)) & set("\x1b\x07\r\u202e")
    assert "\\x1b[2J" in format_error(error)


HOLDER = {
    "name": "분석.고객",
    "token": 7,
    "owner": {"owner": "밤샘", "host": "erp-1"},
    "owner_key": "밤샘|0",
    "members": [
        {"member": "복사", "try": 2, "attempt": "0", "host": "erp-1", "pid": 4711, "progressed_at": "2026-01-01T00:00:00+00:00"},
        {"member": "잠금", "try": 1, "attempt": "1", "host": None, "pid": None, "progressed_at": "2026-01-01T00:00:00+00:00"},
    ],
    "since": "2026-01-01T00:00:00+00:00",
    "last_progress": "2026-01-01T00:01:00+00:00",
    "due": "2026-01-01T00:11:00+00:00",
    "asked": "2026-01-01T00:01:05+00:00",
    "takeable_in": 595.0,
    "stale": False,
    "refused": 3,
}  # fmt: skip


def test_a_busy_lock_names_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    error = LockBusyError("a long sentence of all this", lock="분석.고객", holder=HOLDER, hint="wait for it")
    try:
        told = format_error(error, subject=COPY)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert told == (
        "safecopy: busy: another run holds the lock 분석.고객; nothing was touched\n"
        "  copy           영업.고객 -> 분석.고객\n"
        "  held by        밤샘, host erp-1\n"
        "  member         복사, try 2, pid 4711 on erp-1\n"
        "  member         잠금, try 1\n"
        "  since          2026-01-01 09:00:00 (65 s ago)\n"
        "  last progress  5 s ago\n"
        "  will be taken  in 10 min, if nothing moves until then\n"
        "  refused        3 times since then\n"
        "  target         unchanged, nothing was published\n"
        "  next           wait for it"
    )


def test_a_stale_holder_and_a_lock_that_only_rests_are_told_as_such() -> None:
    stale = HOLDER | {"stale": True, "asked": "2026-01-01T00:12:00+00:00", "takeable_in": 0.0}
    assert "  will be taken  stale since 60 s\n" in format_error(LockBusyError("m", lock="l", holder=stale))
    rests = LockBusyError("it rests for 2 s more", lock="l", holder=HOLDER | {"owner_key": None})
    assert format_error(rests).startswith("safecopy: busy: it rests for 2 s more\n")
    assert "held by" not in format_error(rests)

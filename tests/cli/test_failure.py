"""Errors as a person reads them."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy.cli.failure import block
from airflow_provider_safecopy.errors import (
    AbortedError,
    ConfigError,
    FencedOutError,
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
    assert block(error, subject=COPY) == (
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
    assert block(PlanError(refusals), subject=COPY) == (
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
        (LockStoreError("no", sqlstate="42501"), "no token from the target", "server  SQLSTATE 42501"),
        (VerifyError("differ", proofs={"rows": "1 and 2"}), "verification failed", "rows: 1 and 2"),
        (FencedOutError("newer", lock="l", token=1), "fenced out", "the newer run publishes"),
        (AbortedError("SIGINT"), "aborted: SIGINT", "run it again"),
        (StageError("e", stage="connect"), "connect failed", "may succeed when run again"),
        (StageError("e", stage="connect", retryable=False), "connect failed", "will fail again"),
        (SafeCopyError("e"), "failed: e", "will fail again"),
    ],
)
def test_each_error_has_a_title_and_a_next_step(error: SafeCopyError, title: str, words: str) -> None:
    text = block(error)
    assert text.startswith(f"safecopy: {title}")
    assert words in text
    assert "target  " not in text


def test_an_unknown_outcome_does_not_claim_that_nothing_was_published() -> None:
    text = block(PublishUnknownError("lost", table="분석.고객", token=7, attempt="a-b"), subject=COPY)
    assert "target  old rows or new rows, whole in either case; which of them is not known" in text
    assert "look in safecopy.receipt for token 7, attempt a-b" in text


def test_notes_are_told() -> None:
    error = AbortedError("SIGTERM")
    error.add_note("and the server sessions could not be ended")
    assert "and the server sessions could not be ended" in block(error)


def test_what_would_steer_a_terminal_is_escaped() -> None:
    error = StageError("table \x1b[2J\x07 \u202e", stage="export", stderr_tail="bad \x1b]0;title\x07\r name")
    assert not set(block(error)) & set("\x1b\x07\r\u202e")
    assert "\\x1b[2J" in block(error)

"""Errors carry data through pickles and JSON, and say what to do next."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

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
    StageTimeoutError,
    StalledError,
    VerifyError,
)

REFUSALS = (
    Refusal("no_such_table", "영업.고객: no such table", table="영업.고객", hint="check the spelling"),
    Refusal("privilege", "영업.고객: role 철수 lacks SELECT", table="영업.고객", column="이름"),
)
ERRORS = [
    SafeCopyError("무언가", hint="다음 걸음", retryable=True),
    ConfigError("lock may not be blank", hint="leave it out"),
    PlanError(REFUSALS),
    PlanError(REFUSALS[:1], retryable=True),
    LockStoreError("no token can be drawn", sqlstate="42501", hint="run safecopy init", retryable=False),
    LockBusyError("held", lock="영업.고객", holder={"owner": {"dag": "영업_복사"}, "takeable_in": 12.5}, hint="wait"),
    LockLostError("lost", lock="영업.고객", token=7, hint="raise stale_after"),
    StageError("export failed", stage="export", exit_code=-9, sqlstate="57P01", stderr_tail="끝", hint="look there"),
    StageTimeoutError("import took longer than 5 s", stage="import", exit_code=None, hint="raise import_timeout"),
    StalledError("export stalled", stage="export", retryable=False),
    VerifyError("rows differ", proofs={"rows": {"exported": 3, "imported": 2}}, retryable=True),
    FencedOutError("a newer run holds it", lock="영업.고객", token=7),
    PublishUnknownError("COMMIT was sent", table="영업.고객", token=7, attempt="0f" * 16),
    AbortedError("SIGTERM"),
]
by_class = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


def _subclasses(cls: type[SafeCopyError]) -> set[type[SafeCopyError]]:
    return {cls}.union(*(_subclasses(each) for each in cls.__subclasses__()))


def _raise(error: SafeCopyError) -> None:
    raise error


def test_every_class_of_the_tree_is_tried_here() -> None:
    ours = {each for each in _subclasses(SafeCopyError) if each.__module__ == SafeCopyError.__module__}
    assert {type(error) for error in ERRORS} == ours


@by_class
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_keeps_everything(error: SafeCopyError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_a_pickle_keeps_notes() -> None:
    error = StageError("export failed", stage="export")
    error.add_note("and the server session could not be ended")
    again = pickle.loads(pickle.dumps(error))
    assert again.__notes__ == ["and the server session could not be ended"]
    assert "__notes__" not in again.as_dict()


def test_every_error_survives_another_process() -> None:
    # Not forked: the suite has threads by now.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        for error in ERRORS:
            came = executor.submit(_raise, error).exception(60)
            assert type(came) is type(error)
            assert isinstance(came, SafeCopyError)
            assert came.as_dict() == error.as_dict()


@by_class
def test_as_dict_is_json_and_holds_all_data(error: SafeCopyError) -> None:
    told = json.loads(json.dumps(error.as_dict(), ensure_ascii=False, allow_nan=False))
    assert told["type"] == type(error).__name__
    assert (told["message"], told["hint"], told["retryable"]) == (error.message, error.hint, error.retryable)
    assert set(told) == {"type"} | set(vars(error))


def test_as_dict_spells_refusals_out() -> None:
    told = PlanError(REFUSALS).as_dict()["refusals"]
    assert told[0] == {
        "code": "no_such_table",
        "message": "영업.고객: no such table",
        "table": "영업.고객",
        "column": None,
        "hint": "check the spelling",
    }
    assert [each["column"] for each in told] == [None, "이름"]


@pytest.mark.parametrize(
    "error, retryable",
    [
        (SafeCopyError("x"), False),
        (ConfigError("x"), False),
        (PlanError(REFUSALS), False),
        (LockStoreError("x"), True),
        (StageError("x", stage="export"), True),
        (StageTimeoutError("x", stage="export"), True),
        (StalledError("x", stage="export"), True),
        (VerifyError("x", proofs={}), False),
        (LockBusyError("x", lock="l", holder={}), True),
        (LockLostError("x", lock="l", token=1), True),
        (FencedOutError("x", lock="l", token=1), False),
        (PublishUnknownError("x", table="t", token=1, attempt="a"), False),
        (AbortedError("x"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_retryable_by_default(error: SafeCopyError, retryable: bool) -> None:
    assert error.retryable is retryable


@pytest.mark.parametrize("retryable", [True, False])
def test_retryable_can_be_said_where_it_is_known_better(retryable: bool) -> None:
    assert StageError("x", stage="export", retryable=retryable).retryable is retryable
    assert PlanError(REFUSALS, retryable=retryable).retryable is retryable
    assert LockStoreError("x", retryable=retryable).retryable is retryable


def test_the_message_ends_with_the_next_step() -> None:
    assert str(ConfigError("lock may not be blank", hint="leave it out")) == "lock may not be blank (leave it out)"
    assert str(ConfigError("lock may not be blank")) == "lock may not be blank"
    assert str(REFUSALS[0]) == "영업.고객: no such table [no_such_table] (check the spelling)"
    assert str(REFUSALS[1]) == "영업.고객: role 철수 lacks SELECT [privilege]"


def test_a_plan_error_tells_every_refusal_with_its_next_step() -> None:
    assert str(PlanError(REFUSALS)) == f"refused: {REFUSALS[0]}; {REFUSALS[1]}"


def test_an_unknown_publish_says_where_to_look() -> None:
    error = PublishUnknownError("COMMIT was sent", table="영업.고객", token=7, attempt="0f" * 16)
    assert "safecopy.receipt" in str(error)
    assert "token 7" in str(error)
    assert "0f" * 16 in str(error)


def test_fenced_out_says_that_nothing_is_to_be_done() -> None:
    assert "the run that holds the lock now publishes" in str(FencedOutError("x", lock="l", token=1))


def test_an_abort_says_who() -> None:
    error = AbortedError("SIGTERM")
    assert str(error) == "aborted: SIGTERM"
    assert error.reason == "SIGTERM"


@pytest.mark.parametrize("child", [StageTimeoutError, StalledError])
def test_a_timeout_and_a_stall_are_failed_stages(child: type[SafeCopyError]) -> None:
    assert issubclass(child, StageError)

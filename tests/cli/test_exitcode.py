"""Exit codes: every error has its own, and they never change meaning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_safecopy import errors
from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.errors import SafeCopyError

EXPECTED = {
    "ConfigError": 2,
    "PlanError": 2,
    "LockBusyError": 3,
    "LockLostError": 4,
    "FencedOutError": 4,
    "StageError": 5,
    "StageTimeoutError": 5,
    "StalledError": 5,
    "LockStoreError": 5,
    "VerifyError": 6,
    "PublishUnknownError": 7,
    "AbortedError": 130,
}


def kinds(root: type[SafeCopyError] = SafeCopyError) -> Iterator[type[SafeCopyError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_error_of_ours_has_its_code(kind: type[SafeCopyError]) -> None:
    if kind.__module__ == errors.__name__:
        assert exitcode.find_code(kind.__new__(kind)) == EXPECTED[kind.__name__]


def test_what_is_no_error_of_ours_is_a_mistake() -> None:
    assert (
        exitcode.find_code(ValueError())
        == exitcode.find_code(SafeCopyError("the demo failed"))
        == exitcode.INTERNAL
        == 1
    )

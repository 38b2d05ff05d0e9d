"""The exit codes of the command. Scripts rely on these numbers; they never change meaning."""

from __future__ import annotations

from airflow_provider_safecopy.errors import (
    AbortedError,
    ConfigError,
    FencedOutError,
    LockBusyError,
    LockLostError,
    LockStoreError,
    PlanError,
    PublishUnknownError,
    SafeCopyError,
    StageError,
    VerifyError,
)

DONE = 0
"""Published, or skipped on request; or planned, initialised, listed, reaped, examined without a failed check."""
INTERNAL = 1
"""A mistake of SafeCopy itself, to be reported; or the demo failed."""
REFUSED = 2
"""A bad request, a refused plan, a failed check of `doctor`."""
UNWRITTEN = 8
"""The command has done all it was asked for, and its result could not be written to stdout."""
ABORTED = 130
"""Stopped by SIGINT, SIGTERM or SIGHUP."""

ERROR_CODES: dict[type[SafeCopyError], int] = {
    ConfigError: REFUSED,
    PlanError: REFUSED,
    LockBusyError: 3,
    LockLostError: 4,
    FencedOutError: 4,
    StageError: 5,
    # The target's `safecopy` schema failed us: a stage like the others.
    LockStoreError: 5,
    VerifyError: 6,
    PublishUnknownError: 7,
    AbortedError: ABORTED,
}
"""Of each kind of error; a kind that is not here has its parent's."""


def find_code(error: BaseException) -> int:
    """The exit code `error` ends the command with."""
    return next((ERROR_CODES[kind] for kind in type(error).__mro__ if kind in ERROR_CODES), INTERNAL)

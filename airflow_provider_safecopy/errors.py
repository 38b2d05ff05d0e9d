"""The errors that SafeCopy raises, as a tree with one root.

::

    SafeCopyError
    ├── ConfigError           an option or a parameter makes no sense; nothing was connected to
    ├── PlanError             the copy was refused before anything was touched; `refusals` say why
    ├── LockStoreError        the store of locks, in the target the schema `safecopy`, could not be used
    ├── LockBusyError         another run holds the lock: `holder` says who, since when, until when
    ├── LockLostError         this run's lock was lost, or would have been: it stopped itself
    ├── StageError            a stage failed: `stage`, `exit_code`, `sqlstate`, `stderr_tail`
    │   ├── StageTimeoutError the stage outlived its own timeout
    │   └── StalledError      no byte moved for the stall timeout
    ├── VerifyError           the proofs disagree, or a guard (empty source) refused; nothing was published
    ├── FencedOutError        the lock was lost before the publish, which refused this run
    ├── PublishUnknownError   COMMIT was sent, its answer is lost, and the receipt cannot be read
    └── AbortedError          this run was stopped

Errors carry data, not prose alone: `as_dict()` is what `--json` prints. They survive pickling.
`retryable` says whether running the same copy again, unchanged, can help.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Refusal:
    """One reason why a copy is refused, before anything is touched.

    `code` is a stable word for machines; `table` and `column` are spelled as SQL would quote them;
    `hint` is the next step for a person.
    """

    code: str
    message: str
    table: str | None = None
    column: str | None = None
    hint: str = ""

    def __str__(self) -> str:
        told = f"{self.message} [{self.code}]"
        return f"{told} ({self.hint})" if self.hint else told


# Classes of SQLSTATE that the same copy, run again unchanged, will meet again: something is not supported, does not exist,
# is not allowed, breaks a rule, or is too large.
_HOPELESS_CLASSES = frozenset({"0A", "21", "22", "23", "28", "2B", "3D", "3F", "42", "44", "54"})


def may_pass(sqlstate: str | None) -> bool:
    """Return whether the same statement, run again unchanged, may succeed after this error of a server."""
    return (sqlstate or "")[:2] not in _HOPELESS_CLASSES


_PASSING = frozenset({"spool_full", "source_changed", "target_changed", "open_files", "processes", "memory"})
"""The codes of refusals that may pass without a change to the copy, such as a full disk."""


class SafeCopyError(Exception):
    """The root of all errors. `hint` is the next step for a person, empty if there is none.

    `stage` is the stage in which it happened, None outside of stages.
    """

    retryable_by_default: ClassVar[bool] = False
    stage: str | None = None

    def __init__(self, message: str, *, hint: str = "", retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retryable = self.retryable_by_default if retryable is None else retryable

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, pickling would call the constructor with the message alone.
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    def as_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON values: its type, its message and all its data."""
        data = {key: value for key, value in self.__dict__.items() if not key.startswith("_")}
        return {"type": type(self).__name__, **data}


class ConfigError(SafeCopyError):
    """An option, parameter or environment variable makes no sense. Never retryable."""


class PlanError(SafeCopyError):
    """The copy was refused before anything was touched. `refusals` holds every reason found."""

    def __init__(self, refusals: tuple[Refusal, ...], *, retryable: bool | None = None) -> None:
        self.refusals = refusals
        if retryable is None and refusals:
            # One refusal that needs a change makes a retry useless.
            retryable = all(refusal.code in _PASSING for refusal in refusals)
        super().__init__("refused: " + "; ".join(map(str, refusals)), retryable=retryable)

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "refusals": [asdict(refusal) for refusal in self.refusals]}


class LockStoreError(SafeCopyError):
    """The store of locks (in the target the schema `safecopy`, else a directory) could not be made, read or written.

    `blockers` as in `StageError`, if another session kept one of its tables locked.
    """

    retryable_by_default = True
    blockers: tuple[dict[str, Any], ...] = ()

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        hint: str = "",
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.sqlstate = sqlstate


class LockBusyError(SafeCopyError):
    """Another run holds `lock`; nothing was touched.

    `holder` describes that run as plain JSON values: ``owner``, ``members`` (task, try, host), ``since``,
    ``last_progress``, ``due``, ``takeable_in`` (seconds), ``refused`` (how many contenders were refused since).
    """

    retryable_by_default = True

    def __init__(self, message: str, *, lock: str, holder: dict[str, Any], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.lock = lock
        self.holder = holder


class LockLostError(SafeCopyError):
    """The lock was lost, or could no more be shown to be held: the run stopped itself and published nothing.

    `token` is that of this run. A retry is a new contender, and finds the lock free or busy.
    """

    retryable_by_default = True

    def __init__(self, message: str, *, lock: str, token: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.lock = lock
        self.token = token


class StageError(SafeCopyError):
    """A stage failed.

    `stage` is one of connect, plan, export, import, verify, prepare, publish. `exit_code` is psql's own (negative:
    the signal that ended it), `sqlstate` the server's five letters, `stderr_tail` psql's last words.
    `blockers`, if the stage waited for a lock: the sessions that held it, as plain JSON values (``pid``, ``role``,
    ``application_name``, ``mode``, ``relation``, ``transaction_seconds``, ``query_start``, …). Known blockers only.
    """

    retryable_by_default = True
    blockers: tuple[dict[str, Any], ...] = ()

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        exit_code: int | None = None,
        sqlstate: str | None = None,
        stderr_tail: str = "",
        hint: str = "",
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.stage = stage
        self.exit_code = exit_code
        self.sqlstate = sqlstate
        self.stderr_tail = stderr_tail


class StageTimeoutError(StageError):
    """The stage outlived its own timeout, or waited too long for a lock; child and server session were ended."""


class StalledError(StageError):
    """No byte moved for the stall timeout; the child and its server session were ended."""


class VerifyError(SafeCopyError):
    """The proofs disagree, or a guard refused the result. `proofs` names the numbers compared."""

    def __init__(self, message: str, *, proofs: dict[str, Any], hint: str = "", retryable: bool = False) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.stage = "verify"
        self.proofs = proofs


class FencedOutError(SafeCopyError):
    """`lock` is held by another run, or by a later attempt: this one (`token`) may not publish any more."""

    def __init__(self, message: str, *, lock: str, token: int) -> None:
        super().__init__(message, hint="the run that holds the lock now publishes; nothing to do")
        self.stage = "publish"
        self.lock = lock
        self.token = token


class PublishUnknownError(SafeCopyError):
    """COMMIT was sent and its answer lost, and the receipt that would settle it cannot be read.

    Look for `token` and `attempt` in `safecopy.receipt` of the target: a row there means published.
    """

    def __init__(self, message: str, *, table: str, token: int, attempt: str) -> None:
        super().__init__(message, hint=f"look in safecopy.receipt for token {token}, attempt {attempt}")
        self.stage = "publish"
        self.table = table
        self.token = token
        self.attempt = attempt


class AbortedError(SafeCopyError):
    """This run was stopped: a signal, a killed task, a closed terminal. `reason` names the cause."""

    retryable_by_default = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"aborted: {reason}")
        self.reason = reason


def _rebuild(cls: type[SafeCopyError], args: tuple[Any, ...], data: dict[str, Any]) -> SafeCopyError:
    # Past the constructor, since each class has its own parameters.
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(data)
    return error

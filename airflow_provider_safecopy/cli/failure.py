"""An error, written for a person: which table, which stage, what happened, what it did, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

from airflow_provider_safecopy.cli import layout
from airflow_provider_safecopy.cli.spelling import spell_options
from airflow_provider_safecopy.display import escape
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

_TITLES: dict[type[SafeCopyError], str] = {
    ConfigError: "bad request",
    PlanError: "refused",
    LockStoreError: "the lock cannot be used",
    LockBusyError: "busy",
    LockLostError: "lock lost",
    VerifyError: "verification failed",
    FencedOutError: "fenced out",
    PublishUnknownError: "publish outcome unknown",
    AbortedError: "aborted",
}
_UNCHANGED = "unchanged, nothing was published"
HOW_TO_REPORT = "this is a mistake in SafeCopy: please report it with what the same command shows with -vv"
_UNKNOWN = "old rows or new rows, whole in either case; which of them is not known"


def format_error(error: SafeCopyError, *, subject: str = "") -> str:
    """`error` as a block of lines. `subject` is what was being done, such as ``영업.고객 -> 분석.고객``."""
    lines = [f"safecopy: {_title(error)}: {_first(error)}"]
    width = max((len(name) for name, _ in _fields(error, subject)), default=0)
    for name, value in _fields(error, subject):
        first, *more = escape(value).splitlines() or [""]
        lines += [f"  {name:<{width}}  {first}", *(f"  {'':<{width}}  {line}" for line in more)]
    return "\n".join(lines)


def describe_unexpected(error: Exception) -> str:
    """Return a mistake of our own in one line: its kind and its message."""
    text = " ".join(str(error).split())
    return escape(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _title(error: SafeCopyError) -> str:
    if isinstance(error, StageError):
        return f"{error.stage} failed"
    return next((_TITLES[kind] for kind in type(error).__mro__ if kind in _TITLES), "failed")


def _first(error: SafeCopyError) -> str:
    if isinstance(error, PlanError):
        count = len(error.refusals)
        return "nothing was touched, for this reason" if count == 1 else f"nothing was touched, for {count} reasons"
    if _is_held(error):
        return f"another run holds the lock {escape(error.lock)}; nothing was touched"
    message = spell_options(error.message) if isinstance(error, ConfigError) else error.message
    return escape(message).strip().removeprefix("aborted: ")


def _fields(error: SafeCopyError, subject: str) -> Iterator[tuple[str, str]]:
    if subject:
        yield "copy", subject
    details = {"psql exit code": getattr(error, "exit_code", None), "SQLSTATE": getattr(error, "sqlstate", None)}
    told = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
    if error.stage:
        yield "stage", f"{error.stage} ({told})" if told else error.stage
    elif told:
        yield "server", told
    if isinstance(error, StageError) and error.stderr_tail.strip():
        yield "psql", error.stderr_tail.strip()
    elif _is_held(error):
        yield from layout.list_facts(error.holder)
    elif isinstance(error, VerifyError):
        yield from (("proof", f"{name}: {value}") for name, value in error.proofs.items())
    elif isinstance(error, PlanError):
        for refusal in error.refusals:
            yield "because", f"{spell_options(refusal.message)} [{refusal.code}]"
            if refusal.hint:
                yield "next", spell_options(refusal.hint)
    yield from (("and", note) for note in getattr(error, "__notes__", ()))
    if subject:
        yield "target", _UNKNOWN if isinstance(error, PublishUnknownError) else _UNCHANGED
    if not isinstance(error, PlanError):
        yield "next", spell_options(error.hint) or _advice(error)


def _is_held(error: SafeCopyError) -> TypeGuard[LockBusyError]:
    """Return whether a run holds the lock; it may also only rest for a moment after its release."""
    return isinstance(error, LockBusyError) and error.holder.get("owner_key") is not None


def _advice(error: SafeCopyError) -> str:
    if isinstance(error, ConfigError):
        return "see safecopy COMMAND --help"
    if isinstance(error, AbortedError):
        return "run it again when you like"
    if error.retryable:
        return "the same command may succeed when run again"
    return "the same command will fail again: change what is named above first"

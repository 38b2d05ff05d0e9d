"""Waits for the row of a lock, which report the sessions that keep it locked.

A wait for a row lasts one short step, in the store's only session. So the holders are asked for after a step: those that
can hold rows of our tables, and of these the one that the row itself names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.model import Holder
from airflow_provider_safecopy.postgres.lookout import Blocker, list_blockers

log = logging.getLogger(__name__)

LOCK_NOT_AVAILABLE = "55P03"
"""The SQLSTATE of a lock that could not be taken in time."""

_LOG_AFTER_SECONDS = 1.0
_HINT = "have that session end its transaction, or end it with SELECT pg_terminate_backend(pid); then run this again"

# One step without the row ends these; the other statements are asked again, and name the holders in the end.
_SINGLE_STEP_STATEMENTS = frozenset({"heartbeat", "release", "revoke", "terminate", "refused", "ensure"})

Ask = Callable[[str, Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""Ask the store a statement of `sql/lock.sql`. Raises `LockStoreError`."""


class RowWait:
    """A wait for the row of the lock `name`, in steps, of `patience` seconds in all."""

    def __init__(self, name: str, patience: float, ask: Ask) -> None:
        self._name = name
        self._ask = ask
        self._began = time.monotonic()
        self._end = self._began + patience
        self._logged = False

    @property
    def is_finished(self) -> bool:
        """True if the wait has lasted long enough."""
        return time.monotonic() > self._end

    def has_time(self) -> bool:
        """Return whether to take another step after one without the row; log the holders once meanwhile."""
        seconds = time.monotonic() - self._began
        if not self._logged and seconds > _LOG_AFTER_SECONDS:
            self._logged = True
            found = list_blockers(find_row_holders(self._ask, [self._name]))
            log.warning("lock %s: has been waiting for its row for %.0f s, blocked by %s", self._name, seconds, found)
        return not self.is_finished

    def require_own_sessions(self, holder: Holder | None, error: LockStoreError) -> None:
        """Raise the error of this wait, unless the sessions in the way are those of the lock's `holder`."""
        found = find_row_holders(self._ask, [self._name])
        own = {f"safecopy:{seen.attempt}" for seen in holder.members} if holder is not None else set()
        if not found or not {each.application_name for each in found} <= own:
            raise add_blockers(error, found) from error


def find_row_holders(ask: Ask, names: Sequence[str]) -> tuple[Blocker, ...]:
    """Return the sessions that keep these locks' rows locked, as far as known. Never raises `LockStoreError`."""
    try:
        possible = [dict(row) for row in ask("possible_row_holders", {})]
    except LockStoreError as error:
        log.info("cannot see who keeps the rows of %s locked: %s", ", ".join(names), error)
        return ()
    transactions = [frozenset(row.pop("transactions")) for row in possible]
    found = [Blocker(**row, holds=True, endable=False) for row in possible]
    return tuple(_narrow_holders(ask, names, dict(zip(found, transactions, strict=True))) if len(found) > 1 else found)


def add_blockers(error: LockStoreError, blockers: Sequence[Blocker]) -> LockStoreError:
    """Return `error` with the holders of the row, and with what to do about them."""
    named = LockStoreError(
        f"{error.message.splitlines()[0]}; blocked by {list_blockers(blockers)}",
        sqlstate=error.sqlstate,
        hint=error.hint or _HINT,
        retryable=error.retryable,
    )
    if blockers:
        named.blockers = tuple(blocker.as_dict() for blocker in blockers)
    return named


def add_blockers_at_once(error: LockStoreError, statement: str, ask: Ask, names: Sequence[str]) -> LockStoreError:
    """Return `error`, with the holders of the rows if `statement` does not ask for them by itself."""
    if statement in _SINGLE_STEP_STATEMENTS and error.sqlstate == LOCK_NOT_AVAILABLE:
        return add_blockers(error, find_row_holders(ask, names))
    return error


def _narrow_holders(ask: Ask, names: Sequence[str], candidates: Mapping[Blocker, frozenset[str]]) -> list[Blocker]:
    """Return the strangers that the rows name; without one, the sessions that they name and all strangers.

    Several may share a row: a copy that publishes, and a stranger. The row names neither of them then.
    """
    lockers = frozenset[str]()
    # The table is locked, not only its row.
    with suppress(LockStoreError):
        lockers = frozenset(row["transaction"] for row in ask("row_lockers", {"names": list(names)}))
    named = [each for each, transactions in candidates.items() if transactions & lockers]
    strangers = [each for each in candidates if not (each.application_name or "").startswith("safecopy:")]
    return [each for each in named if each in strangers] or [*named, *strangers] or list(candidates)

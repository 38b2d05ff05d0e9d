"""Say who is in the way of a session that waits for a lock, in any stage.

Asked from the thread that waits, while it waits for an answer or for bytes: there is no thread in here, so that psql can be
forked at any time. It has a session of its own, opened only after a wait of `FIRST_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from airflow_provider_safecopy import sql, wire
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import SafeCopyError, StageTimeoutError
from airflow_provider_safecopy.transfer.blocker import Blocker, list_blockers
from airflow_provider_safecopy.transfer.name import TableName

if TYPE_CHECKING:
    from airflow_provider_safecopy.transfer.session import Session

log = logging.getLogger(__name__)

FIRST_SECONDS = 2.0
"""A wait shorter than this is looked at by nobody."""

_LOOK_EVERY_SECONDS = 1.0
_TELL_EVERY_SECONDS = 30.0
_LONG_AGO_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_OPEN_AGAIN_SECONDS = 10.0
_BLOCKERS = sql.load("blockers")

Turn = Callable[[], AbstractContextManager[bool]]
"""Around the opening of a session: whether it may be opened now."""


class _Connection(wire.PromptConnection):
    patience = _ANSWER_SECONDS


class Lookout:
    """Watches the sessions named `application_name` at `endpoint`, in a session of its own. `close` always.

    `turn` is asked before that session is opened.
    """

    def __init__(self, endpoint: Endpoint, application_name: str) -> None:
        self.turn: Turn = lambda: nullcontext(enter_result=True)
        self._endpoint = endpoint
        self._name = application_name
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self._looked = self._told = self._failed = float("-inf")
        self._seen: tuple[Blocker, ...] = ()
        self._seen_at = float("-inf")

    def look(self, seconds: float) -> None:
        """Look who is in the way of what has waited for `seconds`, and log it now and then. Never raises."""
        now = time.monotonic()
        if seconds < FIRST_SECONDS or now - self._looked < _LOOK_EVERY_SECONDS:
            return
        if now - self._failed < _OPEN_AGAIN_SECONDS:
            return
        self._looked = now
        try:
            self._ask(seconds)
        except (SafeCopyError, psycopg.Error) as error:
            self._failed = now
            log.info("%s: who is in the way cannot be seen: %s", self._endpoint, error)

    def blockers(self) -> tuple[Blocker, ...]:
        """Return who was in the way a moment ago."""
        return self._seen if time.monotonic() - self._seen_at < _LONG_AGO_SECONDS else ()

    def describe(self) -> str:
        """Return the same in words; empty where none was seen."""
        found = self.blockers()
        return f"in the way: {list_blockers(found)}" if found else ""

    def close(self) -> None:
        """Close the session, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def _ask(self, seconds: float) -> None:
        session = self._connect()
        if session is None:
            return
        waiters = session.execute(_BLOCKERS["waiters"], {"application": self._name}).fetchall()
        found = {waiter["pid"]: self._find_blockers(session, waiter["pid"]) for waiter in waiters}
        waiters = [waiter for waiter in waiters if found[waiter["pid"]]]
        if not waiters:
            return
        now = time.monotonic()
        self._seen = tuple(dict.fromkeys(each for several in found.values() for each in several))
        self._seen_at = now
        if now - self._told >= _TELL_EVERY_SECONDS:
            self._told = now
            for waiter in waiters:
                told = list_blockers(found[waiter["pid"]])
                log.warning(
                    "%s: waiting for %s since %.0f s: %s", self._endpoint, _describe_wait(waiter), seconds, told
                )

    def _find_blockers(self, session: psycopg.Connection[dict[str, Any]], pid: int) -> tuple[Blocker, ...]:
        """Return who blocks the session `pid`; behind one that only waits before it, who blocks that one."""
        asked = {"target": 0, "application": self._name}
        found = [Blocker.from_row(row) for row in session.execute(_BLOCKERS["in_the_way"], asked | {"waiting": pid})]
        for queued in [each.pid for each in found if not each.holds and each.pid]:
            rows = session.execute(_BLOCKERS["in_the_way"], asked | {"waiting": queued})
            found += [each for each in map(Blocker.from_row, rows) if each.pid not in {one.pid for one in found}]
        return tuple(found)

    def _connect(self) -> psycopg.Connection[dict[str, Any]] | None:
        """Return the session; None when there is none and none may be opened now."""
        if self._connection is None or self._connection.closed:
            self._connection = None
            with self.turn() as mine:
                if mine:
                    made = self._endpoint.connect(
                        application_name=self._name, connect_timeout=_ANSWER_SECONDS, kind=_Connection
                    )
                    made.row_factory = dict_row
                    self._connection = made
                    made.execute(_BLOCKERS["own_names"])
        return self._connection


def lock_wait_error(error: psycopg.Error, stage: str, what: str, *lookouts: Lookout) -> StageTimeoutError:
    """Return the error of a wait for a lock that lasted longer than ``lock_wait_timeout``, with those in the way."""
    found = [blocker for lookout in lookouts for blocker in lookout.blockers()]
    timeout = StageTimeoutError(
        f"{stage}: {what} stayed locked by {list_blockers(found)}; nothing was changed",
        stage=stage,
        sqlstate=error.sqlstate,
        hint="end the session that holds it, or raise lock_wait_timeout",
    )
    if found:
        timeout.blockers = tuple(blocker.as_dict() for blocker in found)
    return timeout


def _describe_wait(waiter: dict[str, Any]) -> str:
    if waiter["name"] is None:
        return f"{waiter['mode']} ({waiter['locktype']})"
    return f"{waiter['mode']} on {TableName(waiter['schema'], waiter['name'])}"


def find_holders(session: Session, table: LiteralString) -> tuple[Blocker, ...]:
    """Return who holds a lock on a table of ours that writing waits for, without waiting for it."""
    return tuple(map(Blocker.from_row, session.all(_BLOCKERS["holders_by_name"], {"table": table})))

"""The lookout: it reports what a session waits for, in any stage: the holders of a lock, or synchronous standbys.

The waiting thread itself calls it, while it waits for an answer or for bytes: a thread here would make it unsafe to fork
psql. The lookout has a session of its own, opened only after a wait of `MIN_WAIT_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import SafeCopyError, StageTimeoutError
from airflow_provider_safecopy.postgres import wire
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName


@dataclass(frozen=True)
class Blocker:
    """A blocking session, as far as this role may see it; pid 0 is a `prepared` transaction.

    `holds`: it holds the lock in `mode`, and does not only wait earlier in the queue. `transaction_seconds`: how long its
    transaction has been open. `endable`: may be ended if that was asked for.
    """

    pid: int
    role: str | None
    application_name: str | None
    prepared: str | None
    state: str | None
    mode: str | None
    relation: str | None
    holds: bool
    transaction_start: str | None
    transaction_seconds: float | None
    query_start: str | None
    endable: bool

    def __str__(self) -> str:
        who = f"pid {self.pid}" if self.pid else f"the prepared transaction {self.prepared}"
        lock = f"{self.mode} on {self.relation}" if self.relation else self.mode
        seconds, query = self.transaction_seconds, self.query_start
        facts = [
            self.role,
            self.application_name or None,
            self.state,
            lock if self.holds else "waiting before us",
            None if seconds is None else f"transaction open for {seconds:.0f} s",
            None if query is None else f"query of {query}",
        ]
        return f"{who} ({', '.join(fact for fact in facts if fact)})"

    def as_dict(self) -> dict[str, Any]:
        """Return the blocker as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "endable"}


def list_blockers(found: Iterable[Blocker]) -> str:
    """Return the blockers in words, "others" if none is known."""
    return ", ".join(map(str, found)) or "others"


def read_blocker(row: dict[str, Any]) -> Blocker:
    """Return the blocker in a row of `sql/blockers.sql`."""
    schema, name = row.pop("schema"), row.pop("name")
    return Blocker(**row, relation=None if name is None else str(TableName(schema, name)))


log = logging.getLogger(__name__)

MIN_WAIT_SECONDS = 2.0
"""The lookout ignores shorter waits."""

# A look costs the server a query, and a waiting thread calls for one several times a second.
_LOOK_EVERY_SECONDS = 1.0
_LOG_EVERY_SECONDS = 30.0
_LONG_AGO_SECONDS = 5.0
# The waiting thread itself asks: meanwhile it notices no answer and no abort.
_ANSWER_SECONDS = 2.0
# A server that has just refused a session, or kept silent, would do so again.
_OPEN_AGAIN_SECONDS = 10.0
_BLOCKERS = sql.load("blockers")

GateEntry = Callable[[], AbstractContextManager[bool]]
"""A context for the opening of a session; it yields whether that may be opened now."""


class _Connection(wire.PromptConnection):
    patience = _ANSWER_SECONDS


class Lookout:
    """A watch on the sessions named `application_name` at `endpoint`. Always `close` it.

    It has a session of its own; `enter_gate` is asked before that is opened.
    """

    def __init__(self, endpoint: Endpoint, application_name: str) -> None:
        self.enter_gate: GateEntry = lambda: nullcontext(enter_result=True)
        self._endpoint = endpoint
        self._name = application_name
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self._looked = self._told = self._failed = float("-inf")
        self._seen: tuple[Blocker, ...] = ()
        self._standbys = ""
        self._seen_at = self._standbys_seen_at = float("-inf")

    def look(self, seconds: float) -> None:
        """Find the blockers of a wait of `seconds` so far, and log them now and then. Never raises."""
        now = time.monotonic()
        if seconds < MIN_WAIT_SECONDS or now - self._looked < _LOOK_EVERY_SECONDS:
            return
        if now - self._failed < _OPEN_AGAIN_SECONDS:
            return
        self._looked = now
        try:
            self._read_waits(seconds)
        except (SafeCopyError, psycopg.Error) as error:
            self._failed = now
            log.info("%s: cannot see the blockers: %s", self._endpoint, error)

    def read_recent_blockers(self) -> tuple[Blocker, ...]:
        """Return the blockers seen a moment ago."""
        return self._seen if time.monotonic() - self._seen_at < _LONG_AGO_SECONDS else ()

    def describe(self) -> str:
        """Return the blockers in words; empty if none was seen."""
        found = self.read_recent_blockers()
        return f"blocked by {list_blockers(found)}" if found else ""

    def describe_standbys(self) -> str:
        """Return the advice about a COMMIT that waited for standbys a moment ago; empty if none did."""
        if time.monotonic() - self._standbys_seen_at >= _LONG_AGO_SECONDS:
            return ""
        return (
            "the server waits for its synchronous standbys before it answers COMMIT (synchronous_standby_names = "
            f"'{self._standbys}'): see pg_stat_replication there, and start the standby or change that setting"
        )

    def explain(self) -> str:
        """Return the reasons of a wait, as seen a moment ago; empty if unknown."""
        return "; ".join(filter(None, (self.describe(), self.describe_standbys())))

    def close(self) -> None:
        """Close the session, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def _read_waits(self, seconds: float) -> None:
        session = self._connect()
        if session is None:
            return
        waiters = session.execute(_BLOCKERS["waiters"], {"application": self._name}).fetchall()
        locked = [
            (waiter, found)
            for waiter in waiters
            if waiter["mode"] and (found := self._find_blockers(session, waiter["pid"]))
        ]
        standbys = next((waiter["standbys"] for waiter in waiters if waiter["standbys"] is not None), None)
        now = time.monotonic()
        if locked:
            self._seen = tuple(dict.fromkeys(each for _, several in locked for each in several))
            self._seen_at = now
        if standbys is not None:
            self._standbys, self._standbys_seen_at = standbys, now
        if (locked or standbys is not None) and now - self._told >= _LOG_EVERY_SECONDS:
            self._told = now
            self._log_waits(seconds, locked)

    def _log_waits(self, seconds: float, locked: list[tuple[dict[str, Any], tuple[Blocker, ...]]]) -> None:
        for waiter, found in locked:
            log.warning(
                "%s: has been waiting for %s for %.0f s, blocked by %s",
                self._endpoint,
                _describe_wait(waiter),
                seconds,
                list_blockers(found),
            )
        if standbys := self.describe_standbys():
            log.warning("%s: has been waiting for %.0f s: %s", self._endpoint, seconds, standbys)

    def _find_blockers(self, session: psycopg.Connection[dict[str, Any]], pid: int) -> tuple[Blocker, ...]:
        """Return the blockers of session `pid`, and those of blockers that only wait in the queue."""
        asked = {"target": 0, "application": self._name}
        found = [read_blocker(row) for row in session.execute(_BLOCKERS["in_the_way"], asked | {"waiting": pid})]
        # A session that only waits in the queue is not the cause; those that block it are.
        for queued in [each.pid for each in found if not each.holds and each.pid]:
            rows = session.execute(_BLOCKERS["in_the_way"], asked | {"waiting": queued})
            found += [each for each in map(read_blocker, rows) if each.pid not in {one.pid for one in found}]
        return tuple(found)

    def _connect(self) -> psycopg.Connection[dict[str, Any]] | None:
        """Return the session, opened if needed; None if none may be opened now."""
        if self._connection is None or self._connection.closed:
            self._connection = None
            with self.enter_gate() as mine:
                if mine:
                    made = self._endpoint.connect(
                        application_name=self._name, connect_timeout=_ANSWER_SECONDS, kind=_Connection
                    )
                    made.row_factory = dict_row
                    self._connection = made
                    # The role's search_path may put other objects before the server's own.
                    made.execute(_BLOCKERS["own_names"])
        return self._connection


def lock_wait_error(error: psycopg.Error, stage: str, subject: str, *lookouts: Lookout) -> StageTimeoutError:
    """Return the error of a lock wait longer than ``lock_wait_timeout``, with its blockers."""
    found = [blocker for lookout in lookouts for blocker in lookout.read_recent_blockers()]
    timeout = StageTimeoutError(
        f"{stage}: {subject} stayed locked by {list_blockers(found)}; nothing was changed",
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

"""The headcount: how many rows the target held before, counted in a session of its own while the rows are verified
and the new table is built.

A swap only tells that number, and has no use for it: counted in the line it would make every copy wait for a scan of
the old table. Where a guard judges by it (`max_shrink`), it is counted as late as can be instead.
"""

from __future__ import annotations

import logging
import select
import time
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.transfer import statements
from airflow_provider_safecopy.transfer.model import MiB
from airflow_provider_safecopy.transfer.plan import CopyPlan

log = logging.getLogger(__name__)

LARGE_BYTES = 16 * MiB
"""Tables that are smaller are counted sooner than a session is opened."""

_LOCK_SECONDS = 1.0


class Headcount:
    """Begun by `of`, answered by `answer`, let go by `close` always. It has no thread, so psql may be forked meanwhile."""

    def __init__(self, connection: psycopg.Connection[Any] | None = None, deadline: float = 0.0) -> None:
        self._connection = connection
        self._deadline = deadline

    @classmethod
    def of(cls, plan: CopyPlan, target: Endpoint, *, application_name: str) -> Headcount:
        """Begin to count the target's rows, where that is of use: for a swap of a table that takes a while.

        Never raises: a session that is not to be had costs a number, and the publish counts for itself.
        """
        deadline = time.monotonic() + plan.spec.timeouts.verify
        wanted = plan.publish == "swap" and plan.spec.max_shrink is None
        if not wanted or (plan.expected_bytes or 0) < LARGE_BYTES:
            return cls(None, deadline)
        try:
            connection = target.connect(application_name=application_name, connect_timeout=plan.spec.timeouts.connect)
        except SafeCopyError as error:
            log.info("%s is not counted beforehand: %s", plan.target_name, error)
            return cls(None, deadline)
        # By one processor: what is done beside needs the others more.
        alone = statements.set_local("max_parallel_workers_per_gather", "0")
        limits = (("statement_timeout", plan.spec.timeouts.verify), ("lock_timeout", _LOCK_SECONDS))
        asked = [
            alone,
            *(statements.set_timeout(name, seconds) for name, seconds in limits),
            statements.count(plan.target_name),
        ]
        connection.pgconn.send_query(b"; ".join(statement.as_bytes(connection) for statement in asked))
        return cls(connection, deadline)

    def answer(self, abort: AbortSwitch) -> int | None:
        """The number; None where it could not be had. Waits for it. Raises `AbortedError`."""
        if self._connection is None:
            return None
        try:
            return self._result(self._connection, abort)
        except psycopg.Error as error:
            log.info("the target was not counted beforehand: %s", error)
            return None
        finally:
            self.close()

    def close(self) -> None:
        """End the session; the server ends what it does for it. Twice is harmless."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _result(self, connection: psycopg.Connection[Any], abort: AbortSwitch) -> int | None:
        libpq, poll = connection.pgconn, select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(abort.fileno(), select.POLLIN)
        count = None
        while True:
            while libpq.is_busy():
                abort.check()
                if time.monotonic() > self._deadline:
                    return None
                poll.poll(1000)
                libpq.consume_input()
            if (result := libpq.get_result()) is None:
                return count
            if result.status == ExecStatus.TUPLES_OK and (value := result.get_value(0, 0)) is not None:
                count = int(value)

"""The target's write-ahead log, flushed ahead of an import.

COPY writes its pages through a ring of 16 MB, and none of them before the log that describes it is on disk. So an
import stops every few megabytes and waits for the disk, though it has more to do. If another session has had the log
flushed meanwhile, the import finds nothing left to wait for.
"""

from __future__ import annotations

import logging
import select
import time

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import MiB

log = logging.getLogger(__name__)

_SQL = sql.load("wal")
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

# A quarter of the ring, so that the log is on disk before the ring is full.
_EVERY_BYTES = 4 * MiB
_ANSWER_SECONDS = 5.0


class WalFlush:
    """Flushes of the target's log over its control session, one at a time, while that is idle.

    Call `wait_for_answer` before the session is used again. Nothing depends on the flushes but time. If a server
    refuses one, or the session is lost, none is requested any more; the next use of the session finds out why.
    """

    def __init__(self, target: Session) -> None:
        self._connection = target.connection
        self._query = _SQL["flush" if target.server.major >= 17 else "flush_until_16"].encode()
        self._flushed = 0
        self._began = self._rested = 0.0
        self._asked = False
        self._refused = False

    @property
    def answer_descriptor(self) -> int | None:
        """The descriptor on which an answer comes; None if none is to come."""
        usable = self._connection.is_own and not self._connection.closed
        return self._connection.fileno() if self._asked and usable else None

    def request_flush(self, size: int) -> None:
        """Request a flush if the import has taken enough since the last; `size` are its bytes so far."""
        now = time.monotonic()
        if self._asked or self._refused or size - self._flushed < _EVERY_BYTES or now < self._rested:
            return
        wire = self._connection.pgconn
        try:
            # A session that is busy or in a transaction is in use: nothing else may be sent on it.
            if wire.transaction_status == TransactionStatus.IDLE:
                wire.send_query(self._query)
                wire.flush()
                self._asked, self._flushed, self._began = True, size, now
        except psycopg.Error as error:
            self._give_up(str(error))

    def read_answer(self) -> None:
        """Read what has come of the answer. Never waits."""
        wire = self._connection.pgconn
        try:
            wire.consume_input()
            while self._asked and not wire.is_busy():
                if (result := wire.get_result()) is None:
                    self._asked = False
                    # At most half of the time: where the disk is slow, flushing is left to the import, which flushes
                    # more at once.
                    self._rested = 2 * time.monotonic() - self._began
                elif result.status not in _DONE:
                    self._give_up(result.error_message.decode(errors="replace"))
        except psycopg.Error as error:
            self._asked = False
            self._give_up(str(error))

    def wait_for_answer(self) -> None:
        """Wait for an answer that is still to come.

        If the server gives none, its session is closed.
        """
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (descriptor := self.answer_descriptor) is not None:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(max(0, round((deadline - time.monotonic()) * 1000)))
            self.read_answer()
            if self._asked and time.monotonic() > deadline:
                self._give_up(f"no answer within {_ANSWER_SECONDS:g} s")
                self._connection.close()

    def _give_up(self, why: str) -> None:
        self._refused = True
        log.debug("the log is not flushed ahead of the import any more: %s", why.strip())

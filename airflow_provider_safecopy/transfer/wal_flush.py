"""The target's write-ahead log, flushed ahead of an import.

COPY writes its pages through a ring of 16 MB, and none of them before the log that describes it is on disk. So an import
stops every few megabytes and waits for the disk, though it has more to do. Where another session has had the log
flushed meanwhile, it finds nothing left to wait for.
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

# Of the stream: a quarter of the ring.
_EVERY_BYTES = 4 * MiB
_ANSWER_SECONDS = 5.0


class WalFlush:
    """Has the target flush its log, over its control session while it is not asked anything: one at a time.

    Half of the time at most: where the disk is slow, it is left to the import, which flushes more at once.
    `wait_for_answer` before the session is asked again. Nothing depends on it but time: where a server refuses it, or the session
    is lost, it is not asked for again, and the next use of the session finds out.
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
        """The descriptor on which an answer comes; None where none is to come."""
        usable = self._connection.is_own and not self._connection.closed
        return self._connection.fileno() if self._asked and usable else None

    def request_flush(self, size: int) -> None:
        """So many bytes have been taken by the import: flush, if they are enough."""
        now = time.monotonic()
        if self._asked or self._refused or size - self._flushed < _EVERY_BYTES or now < self._rested:
            return
        wire = self._connection.pgconn
        try:
            if wire.transaction_status == TransactionStatus.IDLE:
                wire.send_query(self._query)
                wire.flush()
                self._asked, self._flushed, self._began = True, size, now
        except psycopg.Error as error:
            self._give_up(str(error))

    def read_answer(self) -> None:
        """Take what has come of the answer. Never waits."""
        wire = self._connection.pgconn
        try:
            wire.consume_input()
            while self._asked and not wire.is_busy():
                if (result := wire.get_result()) is None:
                    self._asked = False
                    self._rested = 2 * time.monotonic() - self._began
                elif result.status not in _DONE:
                    self._give_up(result.error_message.decode(errors="replace"))
        except psycopg.Error as error:
            self._asked = False
            self._give_up(str(error))

    def wait_for_answer(self) -> None:
        """Wait for an answer that is still to come; the session of a server that gives none is closed."""
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

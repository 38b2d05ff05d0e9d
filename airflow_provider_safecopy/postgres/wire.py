"""Connections that give up when no answer comes over the wire any more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from airflow_provider_safecopy import shortage

_T = TypeVar("_T")
# A cancel that comes between two statements stops neither, so it is sent again.
_CANCEL_SECONDS, _CANCEL_AGAIN_SECONDS = 2.0, 1.0


class Watcher(Protocol):
    """A watcher, which finds out why an answer does not come."""

    def look(self, seconds: float) -> None:
        """Look around, after `seconds` of waiting for an answer. Must not raise.

        It is called a few times a second.
        """

    def explain(self) -> str:
        """Return the reason why the answer does not come; empty if unknown."""


class PromptConnection(psycopg.Connection[Any]):
    """A session that waits no longer than `patience` seconds for each answer, and is closed then.

    The server's own timeouts end what the server does; this ends waiting for a server, a pooler or a network that no
    longer answers at all while its TCP connection lives. Inside `limit_block` the block's limit holds instead, for all its
    answers together. It needs no thread, which would cost more than many an answer. Raises psycopg.OperationalError.

    It belongs to the process that made it: to close, cancel or ask it in a forked child does not affect the parent.
    """

    patience: float = 6.0
    _limit: float | None = None
    _stopped: Callable[[], bool] | None = None
    _cancel_after: float = 0.0
    lookout: Watcher | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._process = os.getpid()

    @property
    def is_own(self) -> bool:
        """True if this process made it, and not its parent."""
        return os.getpid() == self._process

    def close(self) -> None:
        """Close the session; in a forked child nothing is sent over the socket that it shares with its parent."""
        if self.is_own:
            super().close()

    @contextmanager
    def limit_block(self, seconds: float) -> Iterator[None]:
        """Close the connection if the block waits for answers longer than `seconds` in all.

        A single answer may take all of that time.
        """
        usual, limit = self._limit, time.monotonic() + seconds
        self._limit = limit if usual is None else min(limit, usual)
        try:
            yield
        finally:
            self._limit = usual

    @contextmanager
    def unless(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Cancel what is asked in the block once `stopped` returns True: psycopg's `QueryCanceled`.

        `stopped` is called during each wait for an answer. So a stop between two questions ends the next one that takes
        long. The thread that stops may cancel what is running as well, which is sooner.
        """
        usual, self._stopped = self._stopped, stopped
        try:
            yield
        finally:
            self._stopped = usual

    def stop(self) -> None:
        """Cancel what is running. May be called from a signal handler; a cancel that fails costs time, not safety."""
        if not self.is_own:
            return
        with suppress(psycopg.Error):
            self.cancel_safe(timeout=_CANCEL_SECONDS)

    def abandon(self) -> None:
        """Cancel the statement, and close: a signal handler raised, so the answer stays unread."""
        if self.info.transaction_status == TransactionStatus.ACTIVE:
            self.stop()
            self.close()

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """Wait for each answer of psycopg, and look around every `interval` seconds."""
        # Checked before anything is sent: the parent would take the answer for its own.
        if not self.is_own:
            raise psycopg.OperationalError("this session belongs to the parent process")
        # psycopg 3.2 does not know this parameter.
        more = {} if timeout is None else {"timeout": timeout}
        began = time.monotonic()
        try:
            return super().wait(_in_time(gen, self.patience, self._limit, lambda: self._look(began)), interval, **more)
        # The answer may still be on its way, and would be taken for that of the next question.
        except (OSError, MemoryError) as error:
            self.close()
            short = shortage.find(error)
            raise psycopg.OperationalError(short.message if short else str(error)) from error
        except LateError as error:
            self.close()
            if self.lookout is not None and (why := self.lookout.explain()):
                raise LateError(f"{error}; {why}") from error
            raise

    def _look(self, began: float) -> None:
        """Look around while no answer has come: tell the lookout, and cancel what was stopped."""
        if self.lookout is not None:
            self.lookout.look(time.monotonic() - began)
        now = time.monotonic()
        if self._stopped is not None and now > self._cancel_after and self._stopped():
            self._cancel_after = now + _CANCEL_AGAIN_SECONDS
            self.stop()


class LateError(psycopg.OperationalError):
    """No answer in time: the server, or what is in between, is silent rather than gone."""


def _in_time(gen: PQGen[_T], seconds: float, limit: float | None, look: Callable[[], None]) -> PQGen[_T]:
    """Wrap an exchange, so that it ends if nothing is ready at its deadline.

    Past `limit`, a time, it ends whatever is ready. `look` is called whenever nothing is ready.
    """
    began = time.monotonic()
    deadline = began + seconds if limit is None else limit
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready:
                look()
            if (limit is not None or not ready) and (now := time.monotonic()) > deadline:
                raise LateError(
                    f"no answer within {now - began:.1f} s" if limit is not None else f"no answer within {seconds:g} s"
                )
            wanted = gen.send(ready)
    except StopIteration as end:
        result: _T = end.value
        return result

"""The wire to a server: given up when nothing comes over it any more."""

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
_CANCEL_SECONDS, _CANCEL_AGAIN_SECONDS = 2.0, 1.0


class Watcher(Protocol):
    """Finds out why an answer does not come."""

    def look(self, seconds: float) -> None:
        """Called a few times a second while an answer is due, after `seconds` of waiting. Must not raise."""

    def explain(self) -> str:
        """Return what the answer waits for; empty if unknown."""


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
        """Close the connection when the block waits for answers for longer. A single one may take all of it."""
        usual, limit = self._limit, time.monotonic() + seconds
        self._limit = limit if usual is None else min(limit, usual)
        try:
            yield
        finally:
            self._limit = usual

    @contextmanager
    def unless(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Cancel what is asked in the block, once `stopped` says true: psycopg's `QueryCanceled`.

        It is looked at while an answer is waited for, so that what was stopped between two questions ends with the
        next one that takes long; the thread that stops it may cancel what is running as well, which is sooner.
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
        """Wait for each answer of psycopg. It looks around every `interval` seconds."""
        # Before anything is sent: the parent would take the answer for its own.
        if not self.is_own:
            raise psycopg.OperationalError("this session belongs to the parent process")
        # Unknown to psycopg 3.2.
        more = {} if timeout is None else {"timeout": timeout}
        began = time.monotonic()
        try:
            return super().wait(_in_time(gen, self.patience, self._limit, lambda: self._look(began)), interval, **more)
        except (OSError, MemoryError) as error:  # an answer may be on its way, and would be taken for that of the next
            self.close()
            short = shortage.find(error)
            raise psycopg.OperationalError(short.message if short else str(error)) from error
        except LateError as error:
            self.close()
            if self.lookout is not None and (why := self.lookout.explain()):
                raise LateError(f"{error}; {why}") from error
            raise

    def _look(self, began: float) -> None:
        """Nothing has come of an answer yet."""
        if self.lookout is not None:
            self.lookout.look(time.monotonic() - began)
        now = time.monotonic()
        if self._stopped is not None and now > self._cancel_after and self._stopped():
            self._cancel_after = now + _CANCEL_AGAIN_SECONDS
            self.stop()


class LateError(psycopg.OperationalError):
    """No answer in time: the server, or what is in between, is silent rather than gone."""


def _in_time(gen: PQGen[_T], seconds: float, limit: float | None, look: Callable[[], None]) -> PQGen[_T]:
    """The same exchange, ended when nothing was ready at its deadline; past `limit`, a time, whatever is ready.

    `look` is called as often as nothing is.
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

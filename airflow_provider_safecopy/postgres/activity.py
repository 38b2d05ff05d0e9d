"""Watch whether a server works for this run; it is asked only when no byte moves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.postgres import wire
from airflow_provider_safecopy.postgres.endpoint import Endpoint

log = logging.getLogger(__name__)

_CATALOG = sql.load("catalog")
# A heartbeat waits for the answer, and must be sent long before the promise ends.
_ANSWER_SECONDS = 3.0


class _Connection(wire.PromptConnection):
    patience = _ANSWER_SECONDS


class ActivityWatch:
    """A watch on the sessions named `application_name` on one server.

    It has a connection of its own, made when needed. `enter_gate` yields whether that may be opened now.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        application_name: str,
        enter_gate: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(enter_result=True),
    ) -> None:
        self._endpoint = endpoint
        self._name = application_name
        self._turn = enter_gate
        self._connection: psycopg.Connection[Any] | None = None

    def is_working(self) -> bool:
        """Return whether a watched session runs a statement, and waits neither for a lock nor for its client.

        False if unknown. A session of the watched name that only asks about the others does not count. Never raises.
        """
        try:
            connection = self._connect()
            if connection is None:
                return False
            row = connection.execute(_CATALOG["working"], {"application": self._name}).fetchone()
        except (SafeCopyError, psycopg.Error) as error:
            log.info("%s cannot be asked whether it works: %s", self._endpoint, error)
            return False
        return bool(row and row[0])

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> psycopg.Connection[Any] | None:
        """Return the connection; None if there is none and none may be opened now."""
        if self._connection is None or self._connection.closed:
            self._connection = None
            with self._turn() as mine:
                if mine:
                    self._connection = self._endpoint.connect(
                        application_name=self._name, connect_timeout=_ANSWER_SECONDS, kind=_Connection
                    )
        return self._connection

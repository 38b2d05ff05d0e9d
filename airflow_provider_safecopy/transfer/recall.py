"""Questions asked twice in one transaction: the second time, when others wait, they need not be planned any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString, Protocol

import psycopg

from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.statements import prepared


class Ask(Protocol):
    """What asks a question and answers with all rows, as `Session.all` does."""

    def __call__(self, query: LiteralString, parameters: Mapping[str, Any] | None = None, /) -> list[dict[str, Any]]:
        """All rows as dicts."""


class Recall:
    """Asks as `Session.all` does, and lets the server keep the plan. Planning is nine tenths of a question to the catalog.

    For one transaction, since a pooler may give another session to the next: call `forget` first and last.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names: dict[str, str] = {}

    def __call__(self, query: LiteralString, parameters: Mapping[str, Any] | None = None, /) -> list[dict[str, Any]]:
        """All rows as dicts."""
        text = psycopg.ClientCursor(self._session.connection).mogrify(query, parameters)
        if text not in self._names:
            self._names[text] = f"safecopy_{len(self._names)}"
            self._session.connection.execute(prepared.prepare(self._names[text], text))
        return self._session.all(prepared.execute(self._names[text]))

    def forget(self) -> None:
        """Neither a rollback nor the transaction's end does it."""
        self._names.clear()
        self._session.connection.execute(prepared.FORGET)

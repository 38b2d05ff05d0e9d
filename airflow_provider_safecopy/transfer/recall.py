"""Questions asked again and again: planning is nine tenths of a question to the catalog, so the server keeps the plans."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.statements import prepared

# A number is given once: what is kept stays kept though the message failed, or is rolled back.
_NUMBERS = count(1)
# What a connection has kept, by the text of the question: there may be several who ask over it.
_KEPT: WeakKeyDictionary[psycopg.Connection[Any], dict[str, str]] = WeakKeyDictionary()


class Recall:
    """Asks static SQL over one connection; each text is planned once, for whatever parameters.

    The server is asked each time. The plans live as long as its session does: behind a transaction pooler nobody keeps
    them.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._names = _KEPT.setdefault(connection, {})

    def __call__(self, query: LiteralString, parameters: Mapping[str, Any] | None = None, /) -> list[dict[str, Any]]:
        """All rows as dicts."""
        try:
            return self._ask(query, parameters or {})
        except psycopg.errors.InvalidSqlStatementName:
            # Somebody's trigger has thrown away what the session kept.
            self._names.clear()
            if self._connection.info.transaction_status != TransactionStatus.IDLE:
                raise
            return self._ask(query, parameters or {})

    def _ask(self, query: LiteralString, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        text, wanted = sql.number_parameters(query)
        values = [parameters[each] for each in wanted]
        with psycopg.ClientCursor(self._connection, row_factory=dict_row) as cursor:
            if (name := self._names.get(query)) is not None:
                return cursor.execute(prepared.execute(name, values)).fetchall()
            name = f"safecopy_{next(_NUMBERS)}"
            cursor.execute(prepared.first(name, text, values))
            self._names[query] = name
            cursor.nextset()
            return cursor.fetchall()

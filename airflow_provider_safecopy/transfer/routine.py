"""A routine: the same questions asked of one table after the other. The server keeps their plans.

Planning is nine tenths of a question to the catalog, so that a session that copies many tables makes each plan once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString, cast

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.statements import prepared

_Row = dict[str, Any]
_Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Routine(Session):
    """A session that asks as any does; of static SQL with parameters it has the server keep the plan.

    Plans live as long as the session: not for one behind a transaction pooler, nor for a way to publish that forgets
    all plans (swap).
    """

    plans: _Plans = field(repr=False)

    @classmethod
    def of(cls, session: Session) -> Routine:
        """The same session, from now on with a routine."""
        plans = _Plans(session.connection)
        connection = cast("psycopg.Connection[Any]", _Connection(session.connection, plans))
        return cls(session.endpoint, connection, session.server, session.search_path, plans)

    def one(self, query: LiteralString | Composed, parameters: _Parameters | None = None) -> _Row | None:
        """The first row as a dict, or None."""
        return super().one(self.plans.kept(query, parameters))

    def all(self, query: LiteralString | Composed, parameters: _Parameters | None = None) -> list[_Row]:
        """All rows as dicts."""
        return super().all(self.plans.kept(query, parameters))


class _Plans:
    """The plans a server keeps for a connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._names: dict[tuple[str, tuple[LiteralString, ...]], str] = {}

    def kept(self, query: LiteralString | Composed, parameters: _Parameters | None) -> LiteralString | Composed:
        """What asks the question by the name of its plan, which is made if there is none yet."""
        if not parameters or not isinstance(query, str):
            return query
        text, wanted = sql.numbered(query)
        values = [parameters[each] for each in wanted]
        key = (text, tuple(map(prepared.type_of, values)))
        if key not in self._names:
            name = f"safecopy_routine_{len(self._names)}"
            self._connection.execute(prepared.prepare(name, *key))
            self._names[key] = name
        return prepared.execute(self._names[key], values)


class _Connection:
    """A connection, whose `execute` too goes by the plans that are kept."""

    def __init__(self, real: psycopg.Connection[Any], plans: _Plans) -> None:
        self._real = real
        self._plans = plans

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, query: LiteralString | Composed, parameters: _Parameters | None = None) -> psycopg.Cursor[Any]:
        """As a connection's own."""
        return self._real.execute(self._plans.kept(query, parameters))

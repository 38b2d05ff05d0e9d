"""A routine: the same questions asked of one table after the other. The server keeps their plans.

Planning is nine tenths of a question to the catalog, so that a session that copies many tables makes each plan once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.statements import prepared


@dataclass(frozen=True)
class Routine(Session):
    """A session that asks as any does; of static SQL it has the server keep the plan.

    Plans live as long as the session: not for one behind a transaction pooler, nor for a way to publish that forgets
    all plans (swap).
    """

    names: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, session: Session) -> Routine:
        """The same session, from now on with a routine."""
        return cls(session.endpoint, session.connection, session.server, session.search_path)

    def one(
        self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """The first row as a dict, or None."""
        return super().one(self.kept(query, parameters)) if isinstance(query, str) else super().one(query, parameters)

    def all(self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows as dicts."""
        return super().all(self.kept(query, parameters)) if isinstance(query, str) else super().all(query, parameters)

    def kept(self, query: LiteralString, parameters: Mapping[str, Any] | None = None) -> Composed:
        """What asks the question by the name of its plan, which is made if there is none yet."""
        text, wanted = sql.numbered(query)
        values = [(parameters or {})[each] for each in wanted]
        types = tuple(map(prepared.type_of, values))
        if (query, types) not in self.names:
            name = f"safecopy_routine_{len(self.names)}"
            self.connection.execute(prepared.prepare(name, text, types))
            self.names[query, types] = name
        return prepared.execute(self.names[query, types], values)

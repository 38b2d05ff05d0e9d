"""Foreign keys that refer to the target: what would happen to other tables' rows when the target's go or change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.key import Qualified
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.session import Session

REFERENCES = sql.load("key")["references"]
"""The question that `parse_references` reads the answer to: rows for the table `oid`."""

ACTIONS = frozenset("cnd")
"""What changes the referring rows: cascade, SET NULL, SET DEFAULT. Not NO ACTION (a) and RESTRICT (r), which forbid."""

_WORDS = {"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}


@dataclass(frozen=True)
class Reference:
    """A foreign key of `table` on `columns` of the target, compared by its own operators and the target's collations.

    `parts`: the target's tables (oids) the referred rows may be in. `own`: `table` is the target, or a part of it.
    """

    name: str
    table: TableName
    own: bool
    on_delete: str
    on_update: str
    parts: tuple[int, ...]
    may_select: bool
    columns: tuple[str, ...]
    referring: tuple[str, ...]
    operators: tuple[Qualified, ...]
    collations: tuple[Qualified | None, ...]

    @property
    def own_actions(self) -> str:
        """Return the clauses of the target's own foreign key that change its rows; empty without any."""
        events: tuple[Literal["DELETE", "UPDATE"], ...] = ("DELETE", "UPDATE")
        actions = zip(events, (self.on_delete, self.on_update), strict=True)
        return ", ".join(self.format_clause(event) for event, action in actions if self.own and action in ACTIONS)

    def format_clause(self, event: Literal["DELETE", "UPDATE"]) -> str:
        """As its definition spells it, such as ``ON DELETE SET NULL``."""
        return f"ON {event} {_WORDS[self.on_delete if event == 'DELETE' else self.on_update].upper()}"


def read_references(session: Session, oid: int) -> tuple[Reference, ...]:
    """The foreign keys that refer to the table `oid`, or to a partition of it. Reads only."""
    return parse_references(session.fetch_all(REFERENCES, {"oid": oid}))


def parse_references(rows: Iterable[dict[str, Any]]) -> tuple[Reference, ...]:
    """Return the foreign keys that the rows of `REFERENCES` describe."""
    found = []
    for row in rows:
        table = TableName(row.pop("schema"), row.pop("table"))
        operators = tuple(zip(row.pop("operator_schemas"), row.pop("operators"), strict=True))
        pairs = zip(row.pop("collation_schemas"), row.pop("collations"), strict=True)
        collations = tuple((schema, name) if name is not None else None for schema, name in pairs)
        lists: dict[str, Any] = {key: tuple(row.pop(key)) for key in ("parts", "columns", "referring")}
        found.append(Reference(table=table, operators=operators, collations=collations, **lists, **row))
    return tuple(found)

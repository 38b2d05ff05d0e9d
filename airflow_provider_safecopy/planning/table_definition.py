"""Definition: what is to be made in the target before rows can go there, a table or columns of one. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Identity:
    """An identity column's sequence, as the source's."""

    kind: Literal["ALWAYS", "BY DEFAULT"]
    start: int
    increment: int
    least: int
    greatest: int
    cache: int
    cycle: bool


@dataclass(frozen=True)
class NewColumn:
    """A column to be made. `type` and `default` are SQL as a server spells it under ``search_path = pg_catalog``."""

    name: str
    type: str
    comment: str | None = None
    not_null: bool = False
    default: str | None = None
    identity: Identity | None = None
    collation: str | None = None


@dataclass(frozen=True)
class NewKey:
    """A primary key or a unique constraint. Without `name` the server finds one."""

    name: str | None
    primary: bool
    columns: tuple[str, ...]
    included: tuple[str, ...] = ()
    nulls_not_distinct: bool = False
    deferrable: bool = False
    deferred: bool = False
    comment: str | None = None

    @property
    def kind(self) -> str:
        """The kind of key in words."""
        return "primary key" if self.primary else "unique constraint"


@dataclass(frozen=True)
class Definition:
    """A table's columns, keys and comment; or (no `keys`, no `comment`) the columns that one is to be given."""

    columns: tuple[NewColumn, ...]
    keys: tuple[NewKey, ...] = ()
    comment: str | None = None

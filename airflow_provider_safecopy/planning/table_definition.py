"""Table definition: what a copy creates in the target before rows can go there.

It is a whole table, or columns of one. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Identity:
    """The sequence of an identity column, as the source has it."""

    kind: Literal["ALWAYS", "BY DEFAULT"]
    start: int
    increment: int
    least: int
    greatest: int
    cache: int
    cycle: bool


@dataclass(frozen=True)
class NewColumn:
    """A column to be created.

    `type` and `default` are SQL as a server spells it under ``search_path = pg_catalog``.
    """

    name: str
    type: str
    comment: str | None = None
    not_null: bool = False
    default: str | None = None
    identity: Identity | None = None
    collation: str | None = None


@dataclass(frozen=True)
class NewKey:
    """A primary key or a unique constraint to be created.

    Without `name` the server chooses one.
    """

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
    """The columns, keys and comment of a new table; or new columns of a table.

    The latter has neither `keys` nor `comment`.
    """

    columns: tuple[NewColumn, ...]
    keys: tuple[NewKey, ...] = ()
    comment: str | None = None

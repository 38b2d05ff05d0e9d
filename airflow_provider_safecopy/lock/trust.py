"""Whether the schema `safecopy` may be used: who owns it, and whether its tables are nothing but tables.

Triggers, rules, policies and expressions of a table run with the rights of the role that uses the table. A role that
was quicker to make the schema, or owned it once, may have left one there for whoever comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockStoreError

_TRUST = sql.load("trust")
_MARK = "untrusted schema: "
_MOST_TOLD = 5

PIN = _TRUST["pin"]
"""In front of every question: names are the server's own until the transaction ends."""

CHECK: LiteralString = _TRUST["check"].replace("{suspicions}", _TRUST["suspicions"])
"""Fails where the schema is not to be trusted, and with it the rest of its message. See `parse_suspicions`."""


@dataclass(frozen=True)
class Suspicion:
    """One reason not to use the schema: its `owner`, a `right` to make triggers, or a `trap` that outlives its owner."""

    kind: str
    what: str


def add_suspicions(present: LiteralString) -> LiteralString:
    """The question `present`, and beside its answer what speaks against using the schema."""
    return _TRUST["beside"].replace("{suspicions}", _TRUST["suspicions"]).replace("{present}", present)


def parse_suspicions(error: str) -> tuple[Suspicion, ...] | None:
    """The suspicions that `CHECK` has told by its error; None for any other error."""
    _, mark, told = error.partition(_MARK)
    if not mark:
        return None
    each = told.rpartition('"')[0].split("; ")
    return tuple(Suspicion(kind, what) for kind, _, what in (one.partition(" ") for one in each))


def message(found: Sequence[Suspicion]) -> str:
    """What was found, for people."""
    told = "; ".join(each.what for each in found[:_MOST_TOLD])
    more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return (
        f"the target's schema safecopy is not used, because it could run another role's code as this one: {told}{more}"
    )


def hint(found: Sequence[Suspicion]) -> str:
    """The next step."""
    owned = any(each.kind == "owner" for each in found)
    who = "a superuser, or the database's owner with the rights of those owners," if owned else "its owner"
    return f"have {who} take it over: safecopy init --target …"


def distrust_error(found: Sequence[Suspicion]) -> LockStoreError:
    """What is raised in place of using it."""
    return LockStoreError(message(found), hint=hint(found), retryable=False)


def is_trusted_by(connection: psycopg.Connection[Any], role: str) -> bool:
    """Whether the schema's owner is one that `role` trusts."""
    row = connection.execute(_TRUST["trusted_by"], {"role": role}).fetchone()
    return bool(row and row[0])

"""Whether the schema `safecopy` may be used: who owns it, and whether its tables are nothing but tables.

Triggers, rules, policies and expressions of a table run with the rights of the role that uses the table. A role that
made the schema first, or owned it once, may have left one there for the next user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockStoreError

_TRUST = sql.load("trust")
_ERROR_PREFIX = "untrusted schema: "
_MAX_SHOWN = 5

PIN = _TRUST["pin"]
"""Comes before every question: names are the server's own until the transaction ends."""

CHECK: LiteralString = _TRUST["check"].replace("{suspicions}", _TRUST["suspicions"])
"""Fails if the schema cannot be trusted, and with it the rest of its message. See `parse_suspicions`."""


@dataclass(frozen=True)
class Suspicion:
    """One reason not to use the schema: its `owner`, a `right` to make triggers, or a `trap` that outlives its owner."""

    kind: str
    description: str


def add_suspicions(present: LiteralString) -> LiteralString:
    """Return the question `present`, with the suspicions against the schema beside its answer."""
    return _TRUST["beside"].replace("{suspicions}", _TRUST["suspicions"]).replace("{present}", present)


def parse_suspicions(error: str) -> tuple[Suspicion, ...] | None:
    """Return the suspicions in an error of `CHECK`; None for any other error."""
    _, mark, text = error.partition(_ERROR_PREFIX)
    if not mark:
        return None
    each = text.rpartition('"')[0].split("; ")
    return tuple(Suspicion(kind, what) for kind, _, what in (one.partition(" ") for one in each))


def describe_suspicions(suspicions: Sequence[Suspicion]) -> str:
    """Return what was found, for people."""
    reasons = "; ".join(each.description for each in suspicions[:_MAX_SHOWN])
    more = f"; and {len(suspicions) - _MAX_SHOWN} more" if len(suspicions) > _MAX_SHOWN else ""
    return f"the target's schema safecopy is not used, because it could run another role's code as this one: {reasons}{more}"


def suggest_takeover(suspicions: Sequence[Suspicion]) -> str:
    """Return the next step."""
    owned = any(each.kind == "owner" for each in suspicions)
    who = "a superuser, or the database's owner with the rights of those owners," if owned else "its owner"
    return f"have {who} take it over: safecopy init --target …"


def distrust_error(suspicions: Sequence[Suspicion]) -> LockStoreError:
    """Return the error that is raised instead of using the schema."""
    return LockStoreError(describe_suspicions(suspicions), hint=suggest_takeover(suspicions), retryable=False)


def is_trusted_by(connection: psycopg.Connection[Any], role: str) -> bool:
    """Whether `role` trusts the schema's owner."""
    row = connection.execute(_TRUST["trusted_by"], {"role": role}).fetchone()
    return bool(row and row[0])

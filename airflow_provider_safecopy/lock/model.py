"""What a run holds: a name, a token that only grows, and who it is."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class Lease:
    """Proof of the right to publish under `name`, good until somebody draws a higher token.

    The token alone would not do: restored from a backup, a server issues one twice. `lease_id` is
    random for each grant, `attempt` for each process; sessions are called ``safecopy:<attempt>``.
    """

    name: str
    token: int
    lease_id: UUID
    attempt: UUID
    owner: str


def application_name(attempt: UUID) -> str:
    """What every session of one attempt is called, by psycopg and psql alike."""
    return f"safecopy:{attempt}"

"""A blocker: a session that holds up one of this copy, as far as this role may see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Blocker:
    """A blocking session, as far as this role may see it; pid 0 is a `prepared` transaction.

    `holds`: it holds the lock in `mode`, and does not only wait earlier in the queue. `transaction_seconds`: how long its
    transaction has been open. `endable`: may be ended if that was asked for.
    """

    pid: int
    role: str | None
    application_name: str | None
    prepared: str | None
    state: str | None
    mode: str | None
    relation: str | None
    holds: bool
    transaction_start: str | None
    transaction_seconds: float | None
    query_start: str | None
    endable: bool

    def __str__(self) -> str:
        who = f"pid {self.pid}" if self.pid else f"the prepared transaction {self.prepared}"
        lock = f"{self.mode} on {self.relation}" if self.relation else self.mode
        seconds, query = self.transaction_seconds, self.query_start
        facts = [
            self.role,
            self.application_name or None,
            self.state,
            lock if self.holds else "waiting before us",
            None if seconds is None else f"transaction open for {seconds:.0f} s",
            None if query is None else f"query of {query}",
        ]
        return f"{who} ({', '.join(fact for fact in facts if fact)})"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "endable"}


def list_blockers(found: Iterable[Blocker]) -> str:
    """Return the blockers in words, "others" if none is known."""
    return ", ".join(map(str, found)) or "others"

"""The values of a lock: contender, promise, lease, holder, and events."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.validation import require_seconds

STALE_AFTER = 600.0
"""Seconds without progress after which a lock may be taken, by default."""

CRASH_GRACE = 30.0
"""Seconds without a heartbeat after which a holder without any session counts as crashed."""


@dataclass(frozen=True)
class Promise:
    """The promise of a holder, in seconds. It is kept with the lock; contenders never bring their own.

    `stale_after`: a holder that makes no progress for so long may be displaced. `crash_grace`: so may a holder that
    sends no heartbeat for so long and has no session on the server either. It is longer than a restart of the server,
    and None behind a transaction pooler, where living clients have no session.
    """

    stale_after: float = STALE_AFTER
    crash_grace: float | None = CRASH_GRACE

    def __post_init__(self) -> None:
        for option in ("stale_after", "crash_grace"):
            value = getattr(self, option)
            if option == "crash_grace" and value is None:
                continue
            require_seconds(option, value)

    @property
    def interval(self) -> float:
        """Seconds between heartbeats: often enough for both promises, and never more than needed."""
        # A fifth: the promise still holds after a few heartbeats without an answer.
        grace = self.crash_grace or self.stale_after
        return max(0.05, min(5.0, self.stale_after / 5, grace / 5))

    @property
    def margin(self) -> float:
        """Seconds before the promise ends at which the holder stops itself."""
        return min(30.0, self.stale_after / 10)


@dataclass(frozen=True)
class Contender:
    """A contender for a lock: one attempt (`attempt`, random) of one member (`member`) of a run (`owner_key`).

    Attempts of one owner share the lock: another member joins, a higher `try_number` of the same member supersedes, an
    equal or lower one is refused. `owner` is for people: a refused contender is told of it. `process` is the process in
    which it lives; a member that `is_detached` lives in none, as the setup task of a DAG run that has ended. For a
    contender that `is_passing`, as at the connection gate, the history keeps takeovers alone. `task` is the mapped task
    of which this is an instance.
    """

    owner_key: str
    owner: Mapping[str, str] = field(default_factory=dict)
    member: str = "main"
    try_number: int = 1
    attempt: UUID = field(default_factory=uuid4)
    process: ProcessIdentity | None = field(default_factory=ProcessIdentity.read_current)
    is_detached: bool = False
    is_passing: bool = False
    task: str | None = None

    @classmethod
    def alone(cls, owner: str = "") -> Contender:
        """Return a contender that shares its lock with no other. `owner` names it for people."""
        attempt = uuid4()
        name = owner or "unnamed"
        return cls(f"{name}|{attempt}", {"owner": name, "host": socket.gethostname()}, attempt=attempt)

    @property
    def label(self) -> str:
        """The owner in one line, as a receipt keeps it: with member and try, where it may have several."""
        return self.owner.get("owner") or f"{self.owner_key}|{self.member}|{self.try_number}"


@dataclass(frozen=True)
class DisplacedHolder:
    """The former holder of a lock that was taken over, or the attempt that was superseded."""

    owner_key: str
    owner: Mapping[str, str]
    token: int
    attempts: tuple[str, ...]
    processes: tuple[ProcessIdentity, ...]

    def __str__(self) -> str:
        return describe_owner(self.owner, self.owner_key)


@dataclass(frozen=True)
class Lease:
    """Proof of the right to publish under `name`, good until another run is granted it.

    The token alone would not do: restored from a backup, a server issues one twice. `lease_id` is random for each
    grant, `contender.attempt` for each process; sessions are called ``safecopy:<attempt>``. `kind` is how it was had:
    grant, join, supersede, takeover-stale, takeover-crash or takeover-dead; `remaining` the seconds until it is due.
    """

    name: str
    token: int
    lease_id: UUID
    contender: Contender
    kind: str = "grant"
    remaining: float = STALE_AFTER
    displaced: DisplacedHolder | None = None

    @property
    def attempt(self) -> UUID:
        """The attempt that holds it."""
        return self.contender.attempt

    def without_own_attempt(self) -> Lease:
        """Return the lease without its own attempt among the displaced ones.

        It is there after a grant whose answer was lost, and its sessions belong to this very run.
        """
        # Its sessions would be ended as those of a displaced holder.
        own = str(self.attempt)
        if self.displaced is None or own not in self.displaced.attempts:
            return self
        others = tuple(attempt for attempt in self.displaced.attempts if attempt != own)
        return replace(self, displaced=replace(self.displaced, attempts=others) if others else None)


@dataclass(frozen=True)
class Member:
    """One living member of a holder: its key, attempt, try, where it runs, and how far it has come."""

    member: str
    attempt: str
    try_number: int
    process: ProcessIdentity | None
    phase: int
    count: int
    progressed_at: datetime


@dataclass(frozen=True)
class Holder:
    """The holder of a busy lock, as a contender sees it. Times are the store's own, `asked_at` among them.

    At `due_at` the lock may be taken if nothing moves until then; `refused_count` contenders were refused since
    `granted_at`. `owner_key` is None while the lock is free but not to be taken before `not_before`; `lease_id` is None
    then, too.
    """

    name: str
    token: int
    owner_key: str | None
    owner: Mapping[str, str]
    members: tuple[Member, ...]
    granted_at: datetime
    alive_at: datetime
    progressed_at: datetime
    due_at: datetime
    asked_at: datetime
    not_before: datetime | None = None
    stale_after: float = STALE_AFTER
    is_stale: bool = False
    refused_count: int = 0
    lease_id: UUID | None = None

    @property
    def seconds_to_takeover(self) -> float:
        """Seconds until another run may take it, if nothing moves; 0 when it is overdue already."""
        at = self.due_at if self.owner_key is not None else self.not_before or self.asked_at
        return max(0.0, (at - self.asked_at).total_seconds())

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the last heartbeat, by the store's own clock."""
        return (self.asked_at - self.alive_at).total_seconds()

    @property
    def is_quiet(self) -> bool:
        """True if it may have crashed: no heartbeat within `CRASH_GRACE`. A detached member is quiet by nature."""
        return self.quiet_seconds > CRASH_GRACE and all(seen.process is not None for seen in self.members)

    def __str__(self) -> str:
        return describe_owner(self.owner, self.owner_key or "no holder")

    def build_lease(self, holding_member: Member) -> Lease:
        """Return the lease of one of its members, by which the lock can be released on behalf of that member."""
        if self.lease_id is None:
            raise ValueError(f"lock {self.name} is free: it has no members")
        attempt = UUID(holding_member.attempt)
        member = Contender(
            self.owner_key or "",
            self.owner,
            holding_member.member,
            holding_member.try_number,
            attempt,
            holding_member.process,
        )
        return Lease(self.name, self.token, self.lease_id, member)

    def as_dict(self) -> dict[str, Any]:
        """Return the holder as plain JSON values, for `--json` and for errors."""
        return {
            "name": self.name,
            "token": self.token,
            "owner": dict(self.owner),
            "owner_key": self.owner_key,
            "members": [
                {
                    "member": seen.member,
                    "try": seen.try_number,
                    "attempt": seen.attempt,
                    "host": seen.process.host if seen.process else None,
                    "pid": seen.process.pid if seen.process else None,
                    "progressed_at": seen.progressed_at.isoformat(),
                }
                for seen in self.members
            ],
            "since": self.granted_at.isoformat(),
            "last_progress": self.progressed_at.isoformat(),
            "due": self.due_at.isoformat(),
            "asked": self.asked_at.isoformat(),
            "takeable_in": round(self.seconds_to_takeover, 3),
            "stale": self.is_stale,
            "refused": self.refused_count,
        }


@dataclass(frozen=True)
class Event:
    """One line of a lock's history."""

    at: datetime
    name: str
    token: int
    kind: str
    owner_key: str | None
    owner: Mapping[str, str]
    member: str | None
    attempt: str | None
    prev_owner_key: str | None
    detail: Mapping[str, Any]


def format_application_name(attempt: UUID) -> str:
    """Return the application_name of every session of one attempt, in psycopg and psql alike."""
    return f"safecopy:{attempt}"


def describe_owner(owner: Mapping[str, str], owner_key: str) -> str:
    """Return an owner in one line for people, without the parts that only tell machines apart."""
    told = [f"{part} {value}" for part, value in owner.items() if part not in ("owner", "deployment", "started")]
    named = owner.get("owner")
    return ", ".join(([named] if named else []) + told) or owner_key

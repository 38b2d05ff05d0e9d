"""The state of a lock in a file, and the checks of what it holds: a file may be torn, or changed by hand.

Facts and rules are those of the row in `sql/lock.sql`. Instants are seconds since boot, suspended or not; after a
reboot they mean nothing until `rebase`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any, Self
from uuid import UUID, uuid4

from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Holder, Lease, Member, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity

FactCheck = Callable[[Any], bool]

_MAX_SECONDS = 1e10
"""The most seconds since a boot, about 300 years, before or after it. Calendars end at the year 10,000."""


def require_facts(facts: Mapping[str, Any], checks: Mapping[str, FactCheck]) -> None:
    """Raise ValueError for the first fact that is not of its kind, TypeError where there are no facts."""
    if not isinstance(facts, Mapping):
        raise TypeError(f"no facts, but {facts!r:.80}")
    for name, of_its_kind in checks.items():
        if name in facts and not of_its_kind(facts[name]):
            raise ValueError(f"{name} is {facts[name]!r:.80}")


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_optional_text(value: object) -> bool:
    return value is None or is_text(value)


def is_text_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(is_text(word) for pair in value.items() for word in pair)


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_count(value: object) -> bool:
    # In Python, True is an int.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_SECONDS


def is_optional_seconds(value: object) -> bool:
    return value is None or is_seconds(value)


def is_uuid(value: object) -> bool:
    """Return whether `value` is a UUID as `str` spells it."""
    # It becomes a part of a file's name, so no other spelling will do.
    try:
        return isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        return False


def is_optional_uuid(value: object) -> bool:
    return value is None or is_uuid(value)


def is_instant(value: object) -> bool:
    """Return whether `value` is a time in ISO's spelling, with a zone."""
    # Without a zone it cannot be compared with others; at the calendar's ends it cannot be shown in another zone.
    try:
        told = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return False
    return told is not None and told.tzinfo is not None and MINYEAR < told.year < MAXYEAR


def is_detail(value: object) -> bool:
    """Return whether `value` can be the details of an event, by name."""
    return isinstance(value, Mapping)


STATE_FACTS: Mapping[str, FactCheck] = {
    **dict.fromkeys(("granted_at", "alive_at", "due_at", "stale_after", "written_at", "written_wall"), is_seconds),
    **dict.fromkeys(("crash_grace", "not_before"), is_optional_seconds),
    **dict.fromkeys(("owner_key", "boot"), is_optional_text),
    **dict.fromkeys(("token", "refused"), is_count),
    "name": is_text,
    "owner": is_text_mapping,
    "lease_id": is_optional_uuid,
}
MEMBER_FACTS: Mapping[str, FactCheck] = {
    **dict.fromkeys(("try_number", "phase", "count"), is_count),
    **dict.fromkeys(("detached", "revoked"), is_flag),
    "attempt": is_uuid,
    "boot": is_optional_text,
    "progressed_at": is_seconds,
}
EVENT_FACTS: Mapping[str, FactCheck] = {
    **dict.fromkeys(("owner_key", "member", "attempt", "prev_owner_key"), is_optional_text),
    **dict.fromkeys(("name", "kind"), is_text),
    "at": is_instant,
    "token": is_count,
    "owner": is_text_mapping,
    "detail": is_detail,
}


LAYOUT = 1
"""The layout of the file; another one is not read."""

WallTime = Callable[[float], datetime]
"""Returns the wall's time of an instant, for people."""


@dataclass(frozen=True)
class MemberState:
    """One attempt that holds the lock. `boot` is the one in which it joined: no process outlives its boot."""

    attempt: str
    try_number: int
    detached: bool
    place: ProcessIdentity | None
    boot: str | None
    progressed_at: float
    phase: int = 0
    count: int = 0
    revoked: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the member that `LockState.as_json` has written."""
        require_facts(data, MEMBER_FACTS)
        return cls(**{**data, "place": ProcessIdentity.from_dict(data["place"])})


@dataclass(frozen=True)
class LockState:
    """The holder of the lock `name` and its promise; free while `lease_id` is None. `token` only grows.

    `written_at` and `written_wall` are the times of writing: by the clock since the boot `boot`, and by the wall's.
    """

    name: str
    token: int = 0
    lease_id: str | None = None
    owner_key: str | None = None
    owner: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, MemberState] = field(default_factory=dict)
    granted_at: float = 0.0
    alive_at: float = 0.0
    due_at: float = 0.0
    stale_after: float = 0.0
    crash_grace: float | None = None
    not_before: float | None = None
    refused: int = 0
    boot: str | None = None
    written_at: float = 0.0
    written_wall: float = 0.0

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Return the state that `as_json` has written. Raises ValueError, TypeError or KeyError for another text."""
        data = json.loads(text.decode("utf-8", "surrogatepass"))
        if (layout := data.pop("layout")) != LAYOUT:
            raise ValueError(f"its layout is {layout}, not {LAYOUT}")
        require_facts(data, STATE_FACTS)
        members = {key: MemberState.from_dict(member) for key, member in data.pop("members").items()}
        if len({bool(members), data["lease_id"] is not None, data["owner_key"] is not None}) > 1:
            raise ValueError("it is held and free at once")
        return cls(members=members, **data)

    def as_json(self) -> bytes:
        """Return the content of the state's file."""
        data = {"layout": LAYOUT} | asdict(self)
        return json.dumps(data, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")

    def rebase(self, boot: str | None, *, now: float, wall: float) -> Self:
        """Return the state on the clock of this boot. Only here the wall's clock has a say."""
        if self.boot == boot:
            return self
        # A wall's clock that was set back counts as if no time had passed: a promise is never cut short by it.
        passed = now - max(0.0, wall - self.written_wall) - self.written_at
        instants = {name: getattr(self, name) + passed for name in ("granted_at", "alive_at", "due_at")}
        rests = None if self.not_before is None else self.not_before + passed
        members = {key: replace(each, progressed_at=each.progressed_at + passed) for key, each in self.members.items()}
        return replace(self, members=members, boot=boot, not_before=rests, **instants)

    @property
    def attempts(self) -> tuple[str, ...]:
        """The attempts that hold the lock."""
        return tuple(member.attempt for member in self.members.values())

    def find_ended(self, boot: str | None) -> set[str]:
        """Return the attempts whose process has ended for certain: it is gone, or its boot is over."""
        return {each.attempt for each in self.members.values() if not each.detached and _has_ended(each, boot)}

    def is_current(self, lease: Lease) -> bool:
        """Return whether the lease is current."""
        mine = self.members.get(lease.contender.member)
        current = (self.token, self.lease_id) == (lease.token, str(lease.lease_id))
        return current and mine is not None and mine.attempt == str(lease.attempt)

    def choose_kind(self, contender: Contender, now: float, *, dead: Collection[str], silent: bool) -> str | None:
        """Return how the contender gets the lock now; None when it is busy.

        `dead` attempts are proven to be gone; `silent`: no member holds its own flock any more.
        """
        mine = self.members.get(contender.member)
        if self.lease_id is None:
            return "grant" if self.not_before is None or self.not_before <= now else None
        if self.owner_key == contender.owner_key:
            if mine is None:
                return "join"
            over = mine.try_number < contender.try_number or self.due_at < now or mine.attempt in dead
            return "supersede" if over else None
        if set(self.attempts) <= set(dead):
            return "takeover-dead"
        if self.due_at < now:
            return "takeover-stale"
        return "takeover-crash" if silent and self._has_crashed(now) else None

    def _has_crashed(self, now: float) -> bool:
        """Return whether the holder, without any flock, has not beaten for its grace. A detached member has no flock."""
        detached = any(member.detached for member in self.members.values())
        return self.crash_grace is not None and self.alive_at + self.crash_grace < now and not detached

    def grant(self, contender: Contender, terms: Promise, kind: str, now: float) -> Self:
        """Return the state that the contender holds too, or instead of its holder."""
        member = MemberState(
            str(contender.attempt), contender.try_number, contender.is_detached, contender.process, self.boot, now
        )
        # Members of one run share its token, so only another run begins a new lease.
        base = self if kind in ("join", "supersede") else self._begin_lease(now)
        return replace(
            base,
            owner_key=contender.owner_key,
            owner=dict(contender.owner),
            members={**base.members, contender.member: member},
            alive_at=now,
            due_at=max(base.due_at, now + terms.stale_after),
            stale_after=max(base.stale_after, terms.stale_after),
            crash_grace=terms.crash_grace,
        )

    def _begin_lease(self, now: float) -> Self:
        return replace(
            self,
            token=self.token + 1,
            lease_id=str(uuid4()),
            members={},
            granted_at=now,
            due_at=now,
            stale_after=0.0,
            refused=0,
        )

    def record_heartbeat(self, key: str, progress: tuple[int, int], now: float) -> Self:
        """Return the state after a heartbeat; `progress` is the phase and the count.

        The promise is good for another `stale_after` seconds if `progress` has grown.
        """
        mine = self.members[key]
        # A copy that lives but is stuck must lose its lock.
        if progress <= (mine.phase, mine.count):
            return replace(self, alive_at=now)
        grown = replace(mine, phase=progress[0], count=progress[1], progressed_at=now)
        due = max(self.due_at, now + self.stale_after)
        return replace(self, alive_at=now, due_at=due, members={**self.members, key: grown})

    def remove_member(self, key: str, now: float, *, at_least: float) -> Self:
        """Return the state without one member; free if it was the last."""
        members = {each: member for each, member in self.members.items() if each != key}
        # A member that leaves has done its work: that is progress of the run.
        if members:
            return replace(self, members=members, due_at=max(self.due_at, now + self.stale_after))
        return replace(self._free(), not_before=self.granted_at + at_least)

    def force_free(self) -> Self:
        """Return the freed state. The token grows, so that the former holder is fenced out."""
        return replace(self._free(), token=self.token + 1)

    def _free(self) -> Self:
        return replace(self, lease_id=None, owner_key=None, owner={}, members={})

    def revoke_member(self, key: str) -> Self:
        """Return the state with the attempt of one member marked as fenced out."""
        return replace(self, members={**self.members, key: replace(self.members[key], revoked=True)})

    def find_displaced(self, kind: str = "takeover", contender: Contender | None = None) -> DisplacedHolder | None:
        """Return the holder that a lease of this `kind` displaces, or the contender's former attempt; else None."""
        if kind == "supersede" and contender is not None:
            former = [self.members[contender.member]]
            return DisplacedHolder(contender.owner_key, contender.owner, self.token, *_collect_identities(former))
        if kind.startswith("takeover") and self.owner_key is not None:
            return DisplacedHolder(self.owner_key, self.owner, self.token, *_collect_identities(self.members.values()))
        return None

    def as_lease(self, contender: Contender, kind: str, now: float, displaced: DisplacedHolder | None) -> Lease:
        """Return the lease of the contender, which holds the lock now."""
        lease_id = UUID(self.lease_id or "")
        return Lease(self.name, self.token, lease_id, contender, kind, self.due_at - now, displaced)

    def as_holder(self, now: float, to_wall_time: WallTime) -> Holder:
        """Return the holder, as a contender sees it."""
        seen = sorted(self.members.items(), key=lambda each: each[1].progressed_at, reverse=True)
        return Holder(
            name=self.name,
            token=self.token,
            owner_key=self.owner_key,
            owner=self.owner,
            members=tuple(_build_member(key, member, to_wall_time) for key, member in seen),
            granted_at=to_wall_time(self.granted_at),
            alive_at=to_wall_time(self.alive_at),
            progressed_at=to_wall_time(seen[0][1].progressed_at if seen else self.granted_at),
            due_at=to_wall_time(self.due_at),
            asked_at=to_wall_time(now),
            not_before=None if self.not_before is None else to_wall_time(self.not_before),
            stale_after=self.stale_after,
            is_stale=self.lease_id is not None and self.due_at < now,
            refused_count=self.refused,
            lease_id=None if self.lease_id is None else UUID(self.lease_id),
        )


def _has_ended(member: MemberState, boot: str | None) -> bool:
    earlier = boot is not None and member.boot is not None and member.boot != boot
    return earlier or (member.place is not None and member.place.is_gone)


def _collect_identities(members: Iterable[MemberState]) -> tuple[tuple[str, ...], tuple[ProcessIdentity, ...]]:
    told = [(member.attempt, member.place) for member in members]
    return tuple(attempt for attempt, _ in told), tuple(place for _, place in told if place is not None)


def _build_member(key: str, member: MemberState, to_wall_time: WallTime) -> Member:
    return Member(
        key,
        member.attempt,
        member.try_number,
        member.place,
        member.phase,
        member.count,
        to_wall_time(member.progressed_at),
    )

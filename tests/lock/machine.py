"""A machine that does to a lock whatever may be done to it, in any order, and knows what must come of it.

The lock is the real SQL on a real server; what must come of it is told by a model of a few lines. Time moves in steps
of 100 s against promises that end at half of such a step, so that the seconds an example takes have no say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_provider_safecopy.errors import LockLostError
from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Holder, Lease, Promise
from tests.lock.world import World, blocked

_STEP = 100
_STRANGER = "00000000-0000-0000-0000-000000000000"

OWNERS, MEMBERS = st.sampled_from(["오전", "오후"]), st.sampled_from(["추출", "적재"])
TRIES = st.integers(1, 3)
PROMISES = st.sampled_from([Promise(250, None), Promise(450, 150), Promise(1050, 150), Promise(850, 350)])
EARLIER = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
"""Which of those that had the lock, counted back from the last."""


@dataclass(frozen=True)
class Member:
    """What the lock knows of an attempt; `current` until it is revoked, `done` is (phase, count)."""

    attempt: str
    number: int
    detached: bool
    current: bool = True
    done: tuple[int, int] = (0, 0)


@dataclass
class Model:
    """What the lock's row must be. Times are seconds of the movable clock."""

    token: int = 0
    lease_id: UUID | None = None
    owner: str | None = None
    members: dict[str, Member] = field(default_factory=dict)
    granted: float = 0
    alive: float = 0
    due: float = 0
    stale_after: float = 0
    grace: float | None = None
    not_before: float = -1

    def holds(self, lease: Lease) -> Member | None:
        """The member whose lease this is, if the lock still knows it."""
        member = self.members.get(lease.contender.member)
        known = (self.token, self.lease_id) == (lease.token, lease.lease_id)
        return member if known and member and member.attempt == str(lease.attempt) else None

    def current(self, lease: Lease) -> bool:
        """Whether it may publish."""
        member = self.holds(lease)
        return member is not None and member.current

    def free(self) -> None:
        self.lease_id, self.owner, self.members = None, None, {}

    def kind_for(self, contender: Contender, dead: list[str], seen: set[str], now: float) -> str | None:
        """How the contender gets the lock; None when it does not."""
        there = self.members.get(contender.member)
        attempts = [member.attempt for member in self.members.values()]
        if self.owner == contender.owner_key:
            if there is None:
                return "join"
            return (
                "supersede" if there.number < contender.try_number or self.due < now or there.attempt in dead else None
            )
        if self.owner is None:
            return "grant" if self.not_before <= now else None
        if set(attempts) <= set(dead):
            return "takeover-dead"
        if self.due < now:
            return "takeover-stale"
        quiet = self.grace is not None and self.alive + self.grace < now
        unseen = not any(member.detached or member.attempt in seen for member in self.members.values())
        return "takeover-crash" if quiet and unseen else None


class LockMachine(RuleBasedStateMachine):
    """See the module. `world` is given by whoever runs it."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.clock.seconds = 0
        # Of this example's beginning, not of the world's: what is compared is told by one clock.
        self.world.began = self.world.value("SELECT clock_timestamp()")
        self.name = self.world.new_name()
        self.model = Model()
        self.leases: list[Lease] = []
        self.sessions: dict[str, psycopg.Connection[Any]] = {}
        self.publishing: dict[str, Lease] = {}
        self.published: list[int] = []

    @property
    def now(self) -> int:
        return self.world.clock.seconds

    def teardown(self) -> None:
        """Whatever happened, who comes when every promise is over gets the lock: nobody can bar it for ever."""
        try:
            self.acquire("구조", "복구", 1, Promise(), after=20, dead="nobody", detached=False, ends=True)
            assert self.model.owner == "구조"
            self.agrees()
        finally:
            for session in self.sessions.values():
                self.world.hide(session)

    @rule(
        after=st.sampled_from([0, 0, 1, 2, 4]),
        owner=OWNERS,
        member=MEMBERS,
        number=TRIES,
        promise=PROMISES,
        dead=st.sampled_from(["nobody", "nobody", "nobody", "stranger", "first", "all"]),
        detached=st.booleans(),
        ends=st.booleans(),
    )
    def acquire(
        self,
        owner: str,
        member: str,
        number: int,
        promise: Promise,
        *,
        after: int,
        dead: str,
        detached: bool,
        ends: bool,
    ) -> None:
        self.world.clock.seconds += after * _STEP
        contender = Contender(owner, {"owner": owner}, member, number, process=None, is_detached=detached)
        gone = self._gone(dead)
        kind = self.model.kind_for(contender, gone, set(self.sessions), self.now)
        in_way = self._in_way(kind, member)
        answer = self._asked(lambda: self.world.store.acquire(self.name, contender, promise, dead=gone), ends=ends)
        if kind is None:
            assert isinstance(answer, Holder), answer
            assert (answer.owner_key, answer.token) == (self.model.owner, self.model.token)
        elif in_way and not ends:
            assert answer == "blocked"
        else:
            assert isinstance(answer, Lease), answer
            self._ended(in_way)
            self._taken(answer, kind, promise, in_way)

    @precondition(lambda self: self.leases)
    @rule(after=st.sampled_from([0, 0, 1]), which=EARLIER, phase=st.integers(0, 2), count=st.integers(0, 2))
    def heartbeat(self, after: int, which: int, phase: int, count: int) -> None:
        self.world.clock.seconds += after * _STEP
        lease = self._lease(which)
        member = self.model.holds(lease)
        try:
            remaining = self.world.store.heartbeat(lease, phase=phase, count=count)
        except LockLostError:
            assert not self.model.current(lease)
            return
        assert member is not None
        assert member.current
        self.model.alive = self.now
        if (phase, count) > member.done:
            self.model.due = max(self.model.due, self.now + self.model.stale_after)
            self.model.members[lease.contender.member] = replace(member, done=(phase, count))
        assert abs(remaining - (self.model.due - self.now)) < _STEP / 3

    @precondition(lambda self: self.leases)
    @rule(which=EARLIER, at_least=st.sampled_from([0, 150, 350]))
    def release(self, which: int, at_least: int) -> None:
        lease = self._lease(which)
        answer = blocked(lambda: self.world.store.release(lease, at_least=at_least))
        held, alone = self.model.holds(lease), len(self.model.members) == 1
        if held and (self.publishing if alone else str(lease.attempt) in self.publishing):
            assert answer == "blocked"
            return
        assert answer is bool(held and alone)
        if held and alone:
            self.model.free()
            self.model.not_before = self.model.granted + at_least
        elif held:
            del self.model.members[lease.contender.member]
            self.model.due = max(self.model.due, self.now + self.model.stale_after)

    @precondition(lambda self: self.leases)
    @rule(which=EARLIER)
    def revoke(self, which: int) -> None:
        lease = self._lease(which)
        answer = blocked(lambda: self.world.store.revoke(lease))
        if str(lease.attempt) in self.publishing:
            assert answer == "blocked"
            return
        member = self.model.holds(lease)
        assert answer is bool(member and member.current)
        if member:
            self.model.members[lease.contender.member] = replace(member, current=False)

    @precondition(lambda self: self.model.owner)
    @rule(overdue=st.sampled_from([0, 150, None]), dead=st.sampled_from(["nobody", "first", "all"]), ends=st.booleans())
    def reap(self, overdue: int | None, dead: str, ends: bool) -> None:
        """By a watchdog, which takes the lock from who is overdue; or by a person, from whoever holds it."""
        if overdue is None:
            self._forced(lambda: self.world.store.force_release(self.name, reason="시험"), may=True, ends=ends)
            return
        gone = self._gone(dead)
        alive = {member.attempt for member in self.model.members.values()} - set(gone)
        may = self.model.due < self.now - overdue or not alive
        self._forced(lambda: self.world.store.reap(self.name, overdue=overdue, dead=gone), may=may, ends=ends)

    @precondition(lambda self: self.leases)
    @rule(which=EARLIER)
    def show(self, which: int) -> None:
        """An attempt opens a session."""
        attempt = self._lease(which).attempt
        if str(attempt) not in self.sessions:
            self.sessions[str(attempt)] = self.world.session(attempt)

    @precondition(lambda self: self.sessions)
    @rule()
    def crash(self) -> None:
        """All sessions end, and with them what they were about to publish."""
        self.publishing.clear()
        while self.sessions:
            self.world.hide(self.sessions.popitem()[1])

    @precondition(lambda self: self.leases)
    @rule(which=EARLIER)
    def begin_to_publish(self, which: int) -> None:
        lease = self._lease(which)
        self.show(which)
        if str(lease.attempt) not in self.publishing:
            passed = self.world.fenced(self.sessions[str(lease.attempt)], lease)
            assert passed == self.model.current(lease)
            if passed:
                self.publishing[str(lease.attempt)] = lease

    @precondition(lambda self: self.publishing)
    @rule(commits=st.booleans())
    def end_the_publish(self, commits: bool) -> None:
        attempt, lease = self.publishing.popitem()
        self.sessions[attempt].execute("COMMIT" if commits else "ROLLBACK")
        assert self.model.current(lease)
        self.published += [lease.token] if commits else []

    @invariant()
    def agrees(self) -> None:
        """The row is the model's, the history goes by tokens, and so do the publishes."""
        if not self.model.token:
            return
        model, row, seconds = self.model, self.world.row(self.name), self.world.seconds
        assert (row["token"], row["owner_key"]) == (model.token, model.owner)
        assert row["lease_id"] == (model.lease_id and str(model.lease_id))
        assert (row["lease_id"] is None) == (row["owner_key"] is None) == (row["members"] == {})
        assert {key: (each["id"], each["try"]) for key, each in row["members"].items()} == {
            key: (member.attempt, member.number) for key, member in model.members.items()
        }
        assert set(row["rows"]) == set(model.members)
        for key, member in model.members.items():
            attempt, *done = row["rows"][key]
            assert (attempt == member.attempt) == member.current
            assert tuple(done) == member.done
        if model.owner:
            for told, known in (("granted_at", model.granted), ("alive_at", model.alive), ("due_at", model.due)):
                assert abs((seconds(row[told]) or 0) - known) < _STEP / 3, told
        told_tokens = self.world.tokens_told(self.name)
        assert told_tokens == sorted(told_tokens)
        assert self.published == sorted(self.published)

    def _lease(self, which: int) -> Lease:
        return self.leases[max(-len(self.leases), -1 - which)]

    def _gone(self, dead: str) -> list[str]:
        attempts = [member.attempt for member in self.model.members.values()]
        return {"nobody": [], "stranger": [_STRANGER], "first": attempts[:1], "all": attempts}[dead]

    def _in_way(self, kind: str | None, member: str) -> list[str]:
        """Whose open publishes have to end first."""
        if kind == "supersede":
            there = self.model.members[member].attempt
            return [there] if there in self.publishing else []
        return list(self.publishing) if kind and kind.startswith("takeover") else []

    def _asked(self, ask: Callable[[], Any], *, ends: bool) -> Any:
        if ends:
            return ask()
        with self.world.sparing():
            return blocked(ask)

    def _ended(self, attempts: list[str]) -> None:
        """These publishes were ended by the server: what they still try fails."""
        for attempt in attempts:
            del self.publishing[attempt]
            session = self.sessions.pop(attempt)
            with pytest.raises(psycopg.OperationalError):
                session.execute("COMMIT")
            session.close()

    def _taken(self, lease: Lease, kind: str, promise: Promise, in_way: list[str]) -> None:
        model, contender = self.model, lease.contender
        assert lease.kind == kind
        # Whoever is in the way is ended with all its sessions, and so are those who held the lock with it.
        if kind.startswith("takeover") or kind == "supersede":
            former = model.members if kind != "supersede" else {"": model.members[contender.member]}
            assert lease.displaced is not None
            assert set(lease.displaced.attempts) == {member.attempt for member in former.values()}
            self._swept(set(lease.displaced.attempts), ended=bool(in_way))
        if kind in ("join", "supersede"):
            assert (lease.token, lease.lease_id) == (model.token, model.lease_id)
            model.due = max(model.due, self.now + promise.stale_after)
            model.stale_after = max(model.stale_after, promise.stale_after)
        else:
            assert lease.token == model.token + 1
            assert lease.lease_id not in {each.lease_id for each in self.leases}
            model.free()
            model.token, model.lease_id, model.owner = lease.token, lease.lease_id, contender.owner_key
            model.granted, model.due, model.stale_after = self.now, self.now + promise.stale_after, promise.stale_after
        model.alive, model.grace = self.now, promise.crash_grace
        member = Member(str(lease.attempt), contender.try_number, contender.is_detached)
        model.members[contender.member] = member
        assert abs(lease.remaining - (model.due - self.now)) < _STEP / 3
        self.leases.append(lease)

    def _swept(self, attempts: set[str], *, ended: bool) -> None:
        """Sessions that were ended along with a publish in the way."""
        for attempt in attempts & set(self.sessions) if ended else ():
            self.sessions.pop(attempt).close()

    def _forced(self, ask: Callable[[], DisplacedHolder | None], *, may: bool, ends: bool) -> None:
        in_way = list(self.publishing) if may else []
        answer = self._asked(ask, ends=ends)
        if in_way and not ends:
            assert answer == "blocked"
            return
        assert (answer is not None) == may
        if answer is not None:
            attempts = {member.attempt for member in self.model.members.values()}
            assert set(answer.attempts) == attempts
            self._ended(in_way)
            self._swept(attempts, ended=bool(in_way))
            self.model.token += 1
            self.model.free()

"""The interface of every store of locks. Its clock is its own; contenders' clocks have no say."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Event, Holder, Lease, Promise


class Store(Protocol):
    """A store of locks. Every method raises `LockStoreError` when the store cannot be used."""

    @property
    def label(self) -> str:
        """The name of the store on this machine, equal for all processes that configure it alike."""

    @property
    def backends(self) -> tuple[int, ...]:
        """The process ids of the store's own server sessions; none where there is no server."""

    def acquire(self, name: str, contender: Contender, terms: Promise, *, dead: Collection[str] = ()) -> Lease | Holder:
        """The lease: granted, joined, superseded or taken over; or who holds the lock instead.

        `dead` names attempts that are proven to be gone: a lock held by no others is taken at once.
        """

    def heartbeat(self, lease: Lease, *, phase: int, count: int) -> float:
        """Say that the attempt lives; extend the lease if (phase, count) has grown. Seconds until it is due.

        Raises `LockLostError` when the lease is another's by now.
        """

    def release(self, lease: Lease, *, at_least: float = 0) -> bool:
        """Leave; the last member frees the lock, but no run gets it sooner than `at_least` seconds after its grant.

        Twice is harmless, and so is a release after a takeover. True when the lock is free now by this call.
        """

    def revoke(self, lease: Lease) -> bool:
        """Fence this very attempt out: whatever it still does, it cannot publish. Whether it was still current."""

    def force_release(self, name: str, *, reason: str) -> DisplacedHolder | None:
        """Take the lock from its holder, who is fenced out. None if it was free."""

    def reap(
        self, name: str, *, overdue: float = 0, dead: Collection[str] = (), reason: str = "overdue"
    ) -> DisplacedHolder | None:
        """As `force_release`, but only from who is stale since `overdue` seconds, or proven to be `dead`."""

    def end_sessions(self, displaced: DisplacedHolder) -> int:
        """End what displaced attempts still have in this store's server. How many there were."""

    def read_holder(self, name: str) -> Holder | None:
        """Return the holder of one lock; None if it is free."""

    def read_holders(self) -> tuple[Holder, ...]:
        """Every lock that is held now."""

    def record_refusal(self, name: str, contender: Contender) -> None:
        """Keep a note that the contender was sent away."""

    def read_history(self, name: str | None = None, *, limit: int = 100) -> tuple[Event, ...]:
        """Return the events of a lock, the newest first."""

    def forget(self, *, keep: float) -> int:
        """Remove what no living run needs: members of former owners, and history older than `keep` seconds."""

    def close(self) -> None:
        """Let go of connections and files. The locks stay as they are."""

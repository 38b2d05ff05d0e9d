"""The interface of every store of locks. Its own clock counts; contenders' clocks have no say."""

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
        """Return the lease: granted, joined, superseded or taken over; or the holder that keeps the lock.

        `dead` names attempts that are proven to be gone: a lock with no other holder is taken at once.
        """

    def heartbeat(self, lease: Lease, *, phase: int, count: int) -> float:
        """Report that the attempt lives; return the seconds until its lease is due.

        The lease is extended if (phase, count) has grown. Raises `LockLostError` if another run has the lock by now.
        """

    def release(self, lease: Lease, *, at_least: float = 0) -> bool:
        """Leave the lock, which the last member frees. Return whether this call has freed it.

        No run gets it sooner than `at_least` seconds after its grant. A second release does no harm, and neither does
        one after a takeover.
        """

    def revoke(self, lease: Lease) -> bool:
        """Fence this very attempt out, so that it cannot publish. Return whether it was still current."""

    def force_release(self, name: str, *, reason: str) -> DisplacedHolder | None:
        """Take the lock from its holder, which is fenced out and returned. None if the lock was free."""

    def reap(
        self, name: str, *, overdue: float = 0, dead: Collection[str] = (), reason: str = "overdue"
    ) -> DisplacedHolder | None:
        """Take the lock as `force_release` does, from a holder that is `dead` or stale for `overdue` seconds."""

    def end_sessions(self, displaced: DisplacedHolder) -> int:
        """End the sessions of displaced attempts on this store's server. Return how many there were."""

    def read_holder(self, name: str) -> Holder | None:
        """Return the holder of one lock; None if it is free."""

    def read_holders(self) -> tuple[Holder, ...]:
        """Return the holders of all locks that are held now."""

    def record_refusal(self, name: str, contender: Contender) -> None:
        """Record that the contender was refused."""

    def read_history(self, name: str | None = None, *, limit: int = 100) -> tuple[Event, ...]:
        """Return the events of a lock, the newest first."""

    def forget(self, *, keep: float) -> int:
        """Remove members of former owners, and history older than `keep` seconds. Return how many there were."""

    def close(self) -> None:
        """Close connections and files. The locks stay as they are."""

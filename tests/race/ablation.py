"""Two ways of publishing that look safe and are not. A race that finds nothing wrong with them proves nothing."""

from __future__ import annotations

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import FencedOutError
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.postgres import build_lease_parameters
from tests.race.publish import Session, Way, nothing

_LOCKING = "FOR KEY SHARE OF l, m"
_FENCE = sql.load("lock")["fence"]
_UNLOCKED = _FENCE.replace(_LOCKING, "")
assert _UNLOCKED != _FENCE, "the fence locks no rows: there is nothing to leave out"


def _ask_the_store(lock: LivingLock) -> None:
    """Whether all leases are good now, on the lock's own connection. Raises `LockLostError`."""
    for lease in lock.leases:
        lock.store.heartbeat(lease, phase=0, count=0)


def _read_the_token(lock: LivingLock, session: Session) -> None:
    for lease in lock.leases:
        if session.execute(_UNLOCKED, build_lease_parameters(lease)).fetchone() is None:
            raise FencedOutError("the token was seen to be old", lock=lease.name, token=lease.token)


NO_FENCE = Way("no fence", beforehand=_ask_the_store, inside=nothing)
"""A lock with a time limit, as most are: asked, and then relied upon."""

NO_ROW_LOCK = Way("no row lock", beforehand=nothing, inside=_read_the_token)
"""The token is compared inside the publishing transaction, but nothing keeps it from changing until COMMIT."""

ABLATIONS = (NO_FENCE, NO_ROW_LOCK)

"""The launch gate: connections to one source are opened one after the other, and not too close together.

It does not limit how many run, only how many start at once. It is a lock as any other, in the target's store, held
while a connection opens; a crashed opener's is taken over. Copies into different targets do not see each other's.
"""

from __future__ import annotations

import logging
import random
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.store import Store

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05


@contextmanager
def launch(
    store: Store,
    source: str,
    *,
    interval: float | None,
    contender: Contender,
    opening_seconds: float,
    abort: AbortSwitch,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Open a connection to `source` inside the block: alone, and `interval` seconds after the one before.

    None: no gate. `opening_seconds` is how long opening may take; whoever takes longer has crashed. `waiting` is
    called between looks. Raises `AbortedError`, `LockStoreError`.
    """
    if interval is None:
        yield
        return
    # An owner of its own: of one run's tasks, too, each waits for its turn.
    opener = replace(contender, owner_key=f"{contender.owner_key}|{contender.attempt}", member="launch")
    promise = Promise(stale_after=opening_seconds + 5, crash_grace=None)
    lease = _entered(source, lambda name: store.acquire(name, opener, promise), abort=abort, waiting=waiting)
    try:
        yield
        log.info("launch gate of %s: opened", source)
    finally:
        _leave(store, lease, source, interval)


def _entered(
    source: str, acquire: Callable[[str], Lease | Holder], *, abort: AbortSwitch, waiting: Callable[[], None]
) -> Lease:
    started = time.monotonic()
    while True:
        abort.check()
        answer = acquire(f"launch {source}")
        if isinstance(answer, Lease):
            log.info("launch gate of %s: acquired after %.2f s", source, time.monotonic() - started)
            return answer
        waiting()
        rest = answer.takeable_in if answer.owner_key is None else 0.0
        pause = max(rest, _POLL_SECONDS) + random.uniform(0, _POLL_SECONDS)  # noqa: S311 -- jitter
        select.select([abort.fileno()], [], [], pause)


def _leave(store: Store, lease: Lease, source: str, interval: float) -> None:
    try:
        store.release(lease, at_least=interval)
        log.info("launch gate of %s: released", source)
    except LockStoreError as error:
        log.warning("launch gate of %s: could not be released, and opens by itself: %s", source, error)

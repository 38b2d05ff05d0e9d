"""Waiting for a lock in the triggerer: an occasional look, and nothing held in between."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_safecopy.hooks.dag_run_state import is_finished
from airflow_provider_safecopy.hooks.safecopy import build_endpoint
from airflow_provider_safecopy.lock.liveness import is_gone
from airflow_provider_safecopy.lock.model import Holder
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.postgres.endpoint import Endpoint

POLL_SECONDS = (10.0, 15.0)
"""Between two looks, and before the first: one sooner may find the task not yet deferred (apache/airflow#71580)."""

# Looks share few threads of their own: an unreachable database must not use up those of the triggerer.
_LOOKS = ThreadPoolExecutor(4, "safecopy look")


class LivingLockTrigger(BaseTrigger):
    """Fires when `lock`, in the database of `conn_id`, can probably be had, or when `deadline` has come.

    `deadline` is in seconds of the epoch, and is told on with the event: ``{"status", "lock", "deadline", "holder"}``
    with ``status`` one of ``free``, ``stale``, ``over``, ``quiet``, ``timeout``. It decides nothing: the task that is
    resumed asks for the lock, and waits again when another was quicker.
    """

    def __init__(self, *, conn_id: str, lock: str, deadline: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own
        self.conn_id = conn_id
        self.lock = lock
        self.deadline = deadline
        self._endpoint: Endpoint | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the names that another process makes it from, and no password."""
        kwargs = {"conn_id": self.conn_id, "lock": self.lock, "deadline": self.deadline}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look now and then, and never give up before the deadline: a database may come back."""
        while True:
            await asyncio.sleep(random.uniform(*POLL_SECONDS))  # noqa: S311 -- jitter
            status, holder = await self._look()
            if status is None and time.time() >= self.deadline:
                status = "timeout"
            if status is not None:
                told = holder.as_dict() if holder else None
                event = {"status": status, "lock": self.lock, "deadline": self.deadline, "holder": told}
                yield TriggerEvent(event)  # type: ignore[no-untyped-call] # Airflow's own
                return

    async def _look(self) -> tuple[str | None, Holder | None]:
        """Why the task should try now, or None; and who holds the lock."""
        try:
            if self._endpoint is None:
                # A thread of asgiref's, from which Airflow 3 finds its way back to the triggerer's event loop.
                self._endpoint = await sync_to_async(self._resolve_endpoint)()
            loop = asyncio.get_running_loop()
            status, holder = await loop.run_in_executor(_LOOKS, _look_at, self._endpoint, self.lock)
        except Exception as error:  # noqa: BLE001 -- a database, or Airflow's own API: either may come back
            self.log.warning("lock %s: cannot be looked at: %s", self.lock, error)
            return None, None
        if holder is not None and status is None and await sync_to_async(is_finished)(holder):
            status = "over"
        return status, holder

    def _resolve_endpoint(self) -> Endpoint:
        return build_endpoint(BaseHook.get_connection(self.conn_id))


def _look_at(endpoint: Endpoint, lock: str) -> tuple[str | None, Holder | None]:
    """Return why the store may give the lock away, and who holds it: asked in earnest, it decides by more than this."""
    store = PostgresStore(endpoint)
    try:
        holder = store.read_holder(lock)
        if holder is None:
            return "free", None
        if holder.is_stale:
            return "stale", holder
        crashed = holder.is_quiet and not store.has_session(holder)
        return "quiet" if crashed or is_gone(holder) else None, holder
    finally:
        store.close()

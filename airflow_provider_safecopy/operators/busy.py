"""What a task does when its lock is busy: fail, skip itself, or wait without a worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException, BaseOperator

from airflow_provider_safecopy.errors import LockBusyError
from airflow_provider_safecopy.operators.told import format_error
from airflow_provider_safecopy.transfer.demand import require_choice, require_seconds

Mode = Literal["fail", "skip", "wait"]

WAIT_TIMEOUT = 3600.0
"""Seconds a task waits for a busy lock when nobody says otherwise."""

# A trigger that nobody runs fails its task by Airflow's own clock, so much later than by ours. Seconds.
_LEEWAY = 120.0


@dataclass(frozen=True)
class OnBusy:
    """`mode`, and for ``wait`` how many seconds at most. Raises `ConfigError`."""

    mode: Mode = "fail"
    wait_timeout: float = WAIT_TIMEOUT

    def __post_init__(self) -> None:
        require_choice("on_busy", self.mode, get_args(Mode))
        require_seconds("wait_timeout", self.wait_timeout)

    def find_deadline(self, event: Mapping[str, Any] | None) -> float:
        """Until when to wait, in seconds of the epoch: counted from the first attempt, told on by the trigger's event."""
        latest = time.time() + self.wait_timeout
        told = event.get("deadline") if event else None
        known = isinstance(told, int | float) and not isinstance(told, bool) and told > 0
        return float(min(told, latest)) if known and told is not None else latest

    @contextmanager
    def handle_busy(
        self, operator: BaseOperator, conn_id: str, deadline: float, skipped: Callable[[LockBusyError], None]
    ) -> Iterator[None]:
        """Answer a `LockBusyError` of the block, by when nothing is held any more. `resume` is called after waiting.

        ``fail`` raises it again; `skipped` is told of it before the task skips itself.
        """
        try:
            yield
        except LockBusyError as error:
            if self.mode == "skip":
                skipped(error)
                raise AirflowSkipException(format_error(error)) from error
            if self.mode == "wait":
                self._wait(operator, conn_id, deadline, error)
            raise

    def _wait(self, operator: BaseOperator, conn_id: str, deadline: float, error: LockBusyError) -> None:
        left = deadline - time.time()
        if left <= 0:
            raise AirflowException(
                f"waited {self.wait_timeout:g} s for the lock, in vain: {format_error(error)}"
            ) from error
        operator.log.info("waiting without a worker, for %.0f s at most: %s", left, error)
        from airflow_provider_safecopy.triggers.living_lock import LivingLockTrigger

        operator.defer(
            trigger=LivingLockTrigger(conn_id=conn_id, lock=error.lock, deadline=deadline),
            method_name="resume",
            timeout=timedelta(seconds=left + _LEEWAY),
        )

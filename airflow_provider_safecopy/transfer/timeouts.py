"""How long each part of a copy may take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from airflow_provider_safecopy.transfer.kind import TIMEOUT
from airflow_provider_safecopy.transfer.option import check_options, option

_limit = partial(option, kind=TIMEOUT, group="Time limits", shared=True)


@dataclass(frozen=True)
class Timeouts:
    """How long each part may take, in seconds, 24 days at most. Every one is always in force; none can be switched off.

    A query that sorts before its first row needs a `stall` longer than that sort. A control session waits as long, and
    3 s, for one answer; when it describes or verifies, and when it publishes, for all of them as long as these may take.
    """

    connect: float = _limit(10, meaning="Longest time to open one session.", name="connect_timeout")
    export: float = _limit(4 * 3600, meaning="Longest time for the whole export.", name="export_timeout")
    import_: float = _limit(4 * 3600, meaning="Longest time for the whole import.", name="import_timeout")
    stall: float = _limit(
        300,
        meaning="Longest time without a single byte moving while it could. A query that sorts before its first row needs "
        "longer than that sort.",
        name="stall_timeout",
    )
    verify: float = _limit(
        3600, meaning="Longest time to compare both sides; also the limit for planning.", name="verify_timeout"
    )
    publish: float = _limit(
        3600, meaning="Longest time to write the rows, waiting for locks included.", name="publish_timeout"
    )
    lock_wait: float = _limit(
        180, meaning="Longest time to wait for a lock of another session, in any stage.", name="lock_wait_timeout"
    )

    def __post_init__(self) -> None:
        check_options(self)

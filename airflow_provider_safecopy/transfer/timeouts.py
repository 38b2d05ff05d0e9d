"""How long each part of a copy may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from airflow_provider_safecopy.transfer.demand import demand_seconds

_MOST = 24 * 86400
"""The servers count their own timeouts in milliseconds, in 31 bits."""


@dataclass(frozen=True)
class Timeouts:
    """How long each part may take, in seconds, 24 days at most. Every one is always in force; none can be switched off.

    `stall` is how long the export or the import may go without a single byte moving while it could.
    A query that sorts before its first row needs a `stall` longer than that sort. A control session waits as long, and
    3 s, for one answer; when it describes or verifies, and when it publishes, for all of them as long as these may take.
    `lock_wait`: how long any part waits for a lock that another session holds.
    """

    connect: float = 10
    export: float = 4 * 3600
    import_: float = 4 * 3600
    stall: float = 300
    verify: float = 3600
    publish: float = 3600
    lock_wait: float = 180

    def __post_init__(self) -> None:
        for option in fields(self):
            demand_seconds(f"{option.name.rstrip('_')}_timeout", getattr(self, option.name), most=_MOST)

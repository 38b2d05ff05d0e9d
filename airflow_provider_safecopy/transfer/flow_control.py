"""Pace: how fast the source is read. As fast as it goes, never faster than asked, and ahead of the target only where that pays.

A source that is a little faster than its target gains nothing by being read ahead of it, and what waits on disk costs
both of them processor time; a source that is much faster is let go early. Which of the two it is shows when it is
read freely for a while.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from airflow_provider_safecopy.spec import MiB

HOLD_RATIO = 2.0
"""A source that many times as fast as its target, or less, is held back to the target's speed."""

KEEP_RATIO = 1.5
"""One that is read ahead already, or less: the processors and disk that this takes make it seem slower than it is."""

PROBE_BYTES = 64 * MiB
PROBE_SECONDS = 0.5
"""To know it, so many bytes and seconds at least are read freely: buffers on the way hide what is shorter."""

HELD_BYTES = 1024 * MiB
HELD_SECONDS = 3.0
"""After so many bytes or seconds of being held back it is tried again; after twice as many when that was in vain, and so on."""

_MAX_FACTOR = 16

_BURST_SECONDS = 0.1


@dataclass
class ReadAhead:
    """The limit on reading one stream ahead of its target.

    While it is, each trial counts twice as much as the one before it: a moment's rush on the disk proves nothing.
    """

    is_ahead: bool = True
    _read_bytes: int = 0
    _written_bytes: int = 0
    _since: float = field(default_factory=time.monotonic)
    _factor: int = 1
    _averages: tuple[float, float] = 0.0, 0.0

    def can_read_ahead(self, read_bytes: int, written_bytes: int, now: float) -> bool:
        """Return whether more may be read though the target has not taken all. `read_bytes` and `written_bytes` are bytes so far."""
        if self.is_ahead:
            if read_bytes - self._read_bytes >= PROBE_BYTES and now - self._since >= PROBE_SECONDS:
                ours, theirs = self._averages
                self._averages = (
                    ours / 2 + read_bytes - self._read_bytes,
                    theirs / 2 + written_bytes - self._written_bytes,
                )
                ratio = KEEP_RATIO if ours else HOLD_RATIO
                self._begin_trial(
                    read_bytes, written_bytes, now, is_ahead=self._averages[0] > ratio * self._averages[1]
                )
        elif (
            read_bytes - self._read_bytes >= self._factor * HELD_BYTES
            or now - self._since >= self._factor * HELD_SECONDS
        ):
            self._factor = min(2 * self._factor, _MAX_FACTOR)
            self._begin_trial(read_bytes, written_bytes, now, is_ahead=True)
        return self.is_ahead

    def _begin_trial(self, read_bytes: int, written_bytes: int, now: float, *, is_ahead: bool) -> None:
        if self.is_ahead and is_ahead:
            # It was worth it.
            self._factor = 1
        elif not is_ahead:
            self._averages = 0.0, 0.0
        self.is_ahead, self._read_bytes, self._written_bytes, self._since = is_ahead, read_bytes, written_bytes, now


@dataclass
class RateLimit:
    """At most `rate` bytes a second (None: no limit), for all streams of a copy together."""

    rate: int | None
    _saved: float = 0.0
    _at: float = field(default_factory=time.monotonic)

    def count_allowed(self, wanted: int, now: float) -> int:
        """Return how many of the `wanted` bytes may be read now: none until some are worth a read."""
        if self.rate is None:
            return wanted
        burst = max(1.0, self.rate * _BURST_SECONDS)
        self._saved, self._at = min(burst, self._saved + self.rate * (now - self._at)), now
        return min(wanted, int(self._saved)) if self._saved >= min(wanted, burst / 2) else 0

    def consume(self, count: int) -> None:
        """So many bytes were read."""
        self._saved -= count

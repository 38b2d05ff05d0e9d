"""Flow control: how fast the source is read.

It is read as fast as it goes, never faster than `rate_limit`, and ahead of the target only where that pays.

A source that is a little faster than its target gains nothing by being read ahead of it, and what waits on disk costs
both of them processor time. A source that is much faster is let go early. Reading freely for a while shows which of the
two it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from airflow_provider_safecopy.spec import MiB

HOLD_RATIO = 2.0
"""A source at most this many times as fast as its target is held to the target's speed."""

KEEP_RATIO = 1.5
"""The same limit for a source that is read ahead already.

It is lower: the processors and the disk that reading ahead takes make the source seem slower than it is.
"""

PROBE_BYTES = 64 * MiB
PROBE_SECONDS = 0.5
"""The least bytes and seconds of free reading before speeds are compared.

Buffers on the way hide what is shorter.
"""

HELD_BYTES = 1024 * MiB
HELD_SECONDS = 3.0
"""The bytes or seconds of being held back after which the source is tried again.

They double with each trial that brings nothing.
"""

# Without a limit, a source would soon not be tried again in the whole copy.
_MAX_FACTOR = 16

_BURST_SECONDS = 0.1


@dataclass
class ReadAhead:
    """The limit on reading one pipe's source ahead of its target."""

    is_ahead: bool = True
    _read_bytes: int = 0
    _written_bytes: int = 0
    _since: float = field(default_factory=time.monotonic)
    _factor: int = 1
    _averages: tuple[float, float] = 0.0, 0.0

    def can_read_ahead(self, read_bytes: int, written_bytes: int, now: float) -> bool:
        """Return whether more may be read though the target has not taken all.

        `read_bytes` and `written_bytes` are totals so far, `now` is of the monotonic clock.
        """
        if self.is_ahead:
            if read_bytes - self._read_bytes >= PROBE_BYTES and now - self._since >= PROBE_SECONDS:
                # Each trial counts twice as much as the one before it: a moment's rush on the disk proves nothing.
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
            # Reading ahead still pays: a later trial need not wait longer than the first.
            self._factor = 1
        elif not is_ahead:
            self._averages = 0.0, 0.0
        self.is_ahead, self._read_bytes, self._written_bytes, self._since = is_ahead, read_bytes, written_bytes, now


@dataclass
class RateLimit:
    """The limit of bytes a second, for all pipes of a copy together.

    `rate` None is no limit.
    """

    rate: int | None
    _saved: float = 0.0
    _at: float = field(default_factory=time.monotonic)

    def count_allowed(self, wanted: int, now: float) -> int:
        """Return how many of the `wanted` bytes may be read now; 0 until they are worth a read."""
        if self.rate is None:
            return wanted
        # A pause is not made up for: no peak may follow it.
        burst = max(1.0, self.rate * _BURST_SECONDS)
        self._saved, self._at = min(burst, self._saved + self.rate * (now - self._at)), now
        return min(wanted, int(self._saved)) if self._saved >= min(wanted, burst / 2) else 0

    def consume(self, count: int) -> None:
        """Count bytes that were read."""
        self._saved -= count

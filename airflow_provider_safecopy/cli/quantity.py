"""Times and sizes, read from what a person types."""

from __future__ import annotations

import re
from collections.abc import Mapping

_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(?P<unit>[A-Za-z]*)")
_MOST_SECONDS = 100 * 366 * 86400
"""A century: what is longer is a slip of the finger, and no clock or calendar can be asked for it."""

_MOST_BYTES = 1 << 60
_SECONDS = {"": 1, "ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1} | {
    unit.lower(): base**power
    for base, units in ((1000, ("kB", "MB", "GB", "TB")), (1024, ("KiB", "MiB", "GiB", "TiB")))
    for power, unit in enumerate(units, start=1)
}


def parse_seconds(text: str) -> float | None:
    """The seconds in ``90``, ``90s``, ``15min``, ``4h``, ``1d`` or ``500ms``; None where `text` is no time, or more than a century."""
    return _parse(text, _SECONDS, _MOST_SECONDS)


def parse_bytes(text: str) -> int | None:
    """The bytes in ``1000000``, ``2GB`` (of 1000) or ``512MiB`` (of 1024); None where `text` is no size.

    More than an exbibyte is none either. ``512M`` is none: half the world means 512,000,000 by it and half 536,870,912.
    """
    number = _parse(text, _BYTES, _MOST_BYTES)
    return None if number is None else int(number)


def _parse(text: str, units: Mapping[str, float], most: int) -> float | None:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match["unit"].lower() not in units:
        return None
    number = float(match["number"]) * units[match["unit"].lower()]
    return number if number <= most else None

"""What options may be: sizes and lists. `click` calls these, and takes ValueError for a bad value."""

from __future__ import annotations

import re
from collections.abc import Callable

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def size(words: str) -> int:
    """Bytes: a number, or one with kB, MB or GB (of 1000). Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", words.strip().lower())
    if not match:
        raise ValueError(f"{words!r} is no size such as 200MB or 1GB")
    return int(float(match[1]) * _UNITS[match[2]])


def sizes(words: str) -> tuple[int, ...]:
    """Several, separated by commas."""
    return tuple(size(word) for word in words.split(","))


def some_of(*known: str, between: str = ",") -> Callable[[str], tuple[str, ...]]:
    """Words with something between them; some of those `known`, where any are."""

    def chosen(words: str) -> tuple[str, ...]:
        found = tuple(word.strip() for word in words.split(between) if word.strip())
        if known and (odd := set(found) - set(known)):
            raise ValueError(f"{', '.join(sorted(odd))}: none of {', '.join(known)}")
        return found

    return chosen

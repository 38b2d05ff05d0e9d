"""The facts a file store has written, each of its own kind. A file may be torn, mended by hand, or of something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any
from uuid import UUID

FactCheck = Callable[[Any], bool]

_MAX_SECONDS = 1e10
"""Since a boot: 300 years, before or after. Calendars end at ten thousand."""


def require_facts(facts: Mapping[str, Any], checks: Mapping[str, FactCheck]) -> None:
    """Each fact must be of its kind. Raises ValueError with the first that is not, TypeError where there are no facts."""
    if not isinstance(facts, Mapping):
        raise TypeError(f"no facts, but {facts!r:.80}")
    for name, of_its_kind in checks.items():
        if name in facts and not of_its_kind(facts[name]):
            raise ValueError(f"{name} is {facts[name]!r:.80}")


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_optional_text(value: object) -> bool:
    return value is None or is_text(value)


def is_text_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(is_text(word) for pair in value.items() for word in pair)


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_SECONDS


def is_optional_seconds(value: object) -> bool:
    return value is None or is_seconds(value)


def is_uuid(value: object) -> bool:
    """As `str` spells one: it becomes a part of a file's name."""
    try:
        return isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        return False


def is_optional_uuid(value: object) -> bool:
    return value is None or is_uuid(value)


def is_instant(value: object) -> bool:
    """In ISO's spelling, with a zone: without one it could not be compared with others, nor shown at the calendar's ends."""
    try:
        told = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return False
    return told is not None and told.tzinfo is not None and MINYEAR < told.year < MAXYEAR


def is_detail(value: object) -> bool:
    """Whatever may be told of an event, by name."""
    return isinstance(value, Mapping)


STATE_FACTS: Mapping[str, FactCheck] = {
    **dict.fromkeys(("granted_at", "alive_at", "due_at", "stale_after", "written_at", "written_wall"), is_seconds),
    **dict.fromkeys(("crash_grace", "not_before"), is_optional_seconds),
    **dict.fromkeys(("owner_key", "boot"), is_optional_text),
    **dict.fromkeys(("token", "refused"), is_count),
    "name": is_text,
    "owner": is_text_mapping,
    "lease_id": is_optional_uuid,
}
MEMBER_FACTS: Mapping[str, FactCheck] = {
    **dict.fromkeys(("try_number", "phase", "count"), is_count),
    **dict.fromkeys(("detached", "revoked"), is_flag),
    "attempt": is_uuid,
    "boot": is_optional_text,
    "progressed_at": is_seconds,
}
EVENT_FACTS: Mapping[str, FactCheck] = {
    **dict.fromkeys(("owner_key", "member", "attempt", "prev_owner_key"), is_optional_text),
    **dict.fromkeys(("name", "kind"), is_text),
    "at": is_instant,
    "token": is_count,
    "owner": is_text_mapping,
    "detail": is_detail,
}

"""Widening: types that differ, and still hold every value of the source with its exact text and meaning.

| the source's type | goes into the target's |
|---|---|
| smallint, integer, bigint | a wider one of these; numeric; numeric(p,0) with p ≥ 5, 10, 19 |
| numeric(p,s) | numeric(q,s) with q ≥ p; numeric |
| character varying(n) | character varying(m) with m ≥ n; character varying; text |
| character varying, text | each other |
| timestamp(p), time(p), interval(p), with or without time zone | the same with (q), q ≥ p; none means 6 |
| bit varying(n) | bit varying(m) with m ≥ n; bit varying |
| an array of one of these | an array of what its elements go into |

Nothing else. Left out on purpose, though PostgreSQL would take them: real into double precision (0.1 becomes another
number, 12345678 another text), character(n) (its padding is part of the text), bit(n), numeric with another scale,
integers into numeric with a scale (5 becomes 5.00), date into timestamp, json into jsonb, timestamp into timestamptz,
intervals of certain fields, and domains (their rules are somebody's own).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPELLED = re.compile(
    r"(?P<name>[a-z ]+?)(?:\((?P<limits>[0-9]{1,9}(?:,-?[0-9]{1,9})?)\))?(?P<zone> with(?:out)? time zone)?(?P<array>\[\])?"
)
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_TIMES = ("timestamp", "time", "interval")
_MAX_PRECISION = 6
_UNLIMITED = 1 << 40
_TEXTS = ("character varying", "text")


@dataclass(frozen=True)
class _Type:
    """A built-in type, taken apart as the server spells it."""

    name: str
    limits: tuple[int, ...]
    zone: str
    array: bool

    def limit(self, unlimited: int) -> int:
        """The one number in its parentheses, or what none means."""
        return self.limits[0] if self.limits else unlimited


def can_widen(source_type: str, target_type: str) -> bool:
    """Whether `taken` is wider than `given`, both as the server spells them under ``search_path = pg_catalog``."""
    one, other = _parse_type(source_type), _parse_type(target_type)
    if source_type == target_type or one is None or other is None or one.array != other.array or one.zone != other.zone:
        return False
    if one.name in _DIGITS:
        return _holds_integers(_DIGITS[one.name], other)
    if one.name == "numeric":
        return other.name == "numeric" and _holds_digits(one.limits, other.limits)
    if one.name in _TEXTS and other.name in _TEXTS:
        return one.limit(_UNLIMITED) <= other.limit(_UNLIMITED)
    unlimited = {"bit varying": _UNLIMITED, **dict.fromkeys(_TIMES, _MAX_PRECISION)}.get(one.name)
    return one.name == other.name and unlimited is not None and one.limit(unlimited) <= other.limit(unlimited)


def _holds_integers(digits: int, target: _Type) -> bool:
    if target.name == "numeric":
        return not target.limits or (target.limits[1] == 0 and target.limits[0] >= digits)
    return digits < _DIGITS.get(target.name, 0)


def _holds_digits(source_limits: tuple[int, ...], target_limits: tuple[int, ...]) -> bool:
    """Of a numeric: the same scale, so that 1.50 stays 1.50."""
    if not target_limits:
        return True
    return bool(source_limits) and source_limits[1] == target_limits[1] and source_limits[0] <= target_limits[0]


def _parse_type(text: str) -> _Type | None:
    """None for a type of somebody's own: those are spelled with their schema."""
    found = _SPELLED.fullmatch(text)
    if found is None:
        return None
    limits = tuple(int(number) for number in (found["limits"] or "").split(",") if number)
    return _Type(found["name"], limits, found["zone"] or "", found["array"] is not None)

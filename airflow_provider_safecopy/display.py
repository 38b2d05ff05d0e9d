"""Text for people: characters that are safe to show, numbers with units, aligned columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Control characters, those of C1 and the lone surrogates: what a table's name could do to a terminal.
_UNSHOWABLE = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
_UNSHOWABLE |= {
    code: f"\\u{code:04x}" for code in (*range(0xD800, 0xE000), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def escape(text: object) -> str:
    """Return `text` with all escaped that would steer a terminal or turn the reading direction."""
    return str(text).translate(_UNSHOWABLE)


def format_bytes(number: float) -> str:
    """Return a number of bytes as people read it: ``34.5 MiB``."""
    if number < 1024:
        return f"{number:,.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1000:
            return f"{number:,.1f} {unit}"
    return f"{number / 1024:,.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Return a time as people read it: ``0.8 s``, ``95 s``, ``12 min``, ``1.5 h``."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    for unit, length, until in (("s", 1, 120), ("min", 60, 3600)):
        if seconds < until:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 3600:.1f}".removesuffix(".0") + " h"


def count_places(text: str) -> int:
    """Return the places that `text` takes in a terminal: wide characters two, combining ones none."""
    return sum(_width_of(character) for character in text)


def align_columns(
    rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), indent: str = "  "
) -> list[str]:
    """Return `rows` as lines, each column as wide as its widest cell. Columns in `right` are flush right."""
    widths = [max(map(count_places, column)) for column in zip(*rows, strict=True)]
    return [indent + "  ".join(_cells(row, widths, right)).rstrip() for row in rows]


def align_facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line for each fact, its name before it; a value of several lines is indented."""
    space = max((9, *(len(name) for name, _ in facts)))
    return [
        f"  {name if at == 0 else '':<{space}} {line}"
        for name, value in facts
        for at, line in enumerate(escape(value).splitlines() or [""])
    ]


def reason_facts(reasons: Sequence[str], warnings: Sequence[str]) -> list[tuple[str, str]]:
    """Return reasons and warnings as facts."""
    return [*(("because", reason) for reason in reasons), *(("warning", warning) for warning in warnings)]


def format_count(number: int | None) -> str:
    """Return a count with separators, ``-`` where it is not known."""
    return "-" if number is None else f"{number:,}"


def format_size(number: int | None) -> str:
    """Return a number of bytes with its unit, ``-`` where it is not known."""
    return "-" if number is None else format_bytes(number)


def _cells(row: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> list[str]:
    blanks = [" " * (space - count_places(cell)) for cell, space in zip(row, widths, strict=True)]
    return [gap + cell if at in right else cell + gap for at, (cell, gap) in enumerate(zip(row, blanks, strict=True))]


def _width_of(character: str) -> int:
    # The vowels and final consonants of decomposed Hangul are drawn into the syllable before them.
    if unicodedata.combining(character) or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

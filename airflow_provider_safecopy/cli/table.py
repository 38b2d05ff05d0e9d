"""Aligned columns of plain text, where Hangul takes two places."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """The places `text` takes in a terminal: wide characters two, combining ones none."""
    return sum(_width_of(character) for character in text)


def aligned(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), indent: str = "  ") -> list[str]:
    """`rows` as lines, each column as wide as its widest cell. Columns in `right` are flush right."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [indent + "  ".join(_cells(row, widths, right)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> list[str]:
    blanks = [" " * (space - width(cell)) for cell, space in zip(row, widths, strict=True)]
    return [gap + cell if at in right else cell + gap for at, (cell, gap) in enumerate(zip(row, blanks, strict=True))]


def _width_of(character: str) -> int:
    # The vowels and final consonants of decomposed Hangul are drawn into the syllable before them.
    if unicodedata.combining(character) or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

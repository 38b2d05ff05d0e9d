"""Aligned columns, where Hangul takes two places."""

from __future__ import annotations

import unicodedata

import pytest

from airflow_provider_safecopy.cli.table import aligned, width


@pytest.mark.parametrize(
    "text, places",
    [
        ("", 0),
        ("abc", 3),
        ("고객", 4),
        (unicodedata.normalize("NFD", "각하"), 4),
        ("é", 1),
        ("e\u0301", 1),
        ("漢ｱＡ", 5),
        ("😀", 2),
    ],
)
def test_the_width_is_what_a_terminal_takes(text: str, places: int) -> None:
    assert width(text) == places


def test_columns_are_aligned_by_width() -> None:
    rows = [("table", "rows"), ("고객", "120"), ("x", "4,000")]
    assert aligned(rows, right=frozenset({1})) == ["  table   rows", "  고객     120", "  x      4,000"]

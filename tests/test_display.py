"""Aligned columns, where Hangul takes two places."""

from __future__ import annotations

import unicodedata

import pytest

from airflow_provider_safecopy.display import align_columns, count_places, escape, format_bytes, format_seconds


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
    assert count_places(text) == places


def test_columns_are_aligned_by_width() -> None:
    rows = [("table", "rows"), ("고객", "120"), ("x", "4,000")]
    assert align_columns(rows, right=frozenset({1})) == ["  table   rows", "  고객     120", "  x      4,000"]


def test_what_would_steer_a_terminal_is_shown_as_its_escape() -> None:
    assert escape("a\tb\nc\x1b[31m\x9b\x7f\u202e\udcff") == "a\tb\nc\\x1b[31m\\x9b\\x7f\\u202e\\udcff"


@pytest.mark.parametrize(
    "size, text",
    [
        *((0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (999.9 * 1024, "999.9 KiB"), (1000 * 1024, "1.0 MiB")),
        *((36 * 2**20, "36.0 MiB"), (5 * 2**30, "5.0 GiB"), (3 * 2**40, "3.0 TiB")),
    ],
)
def test_sizes_are_written(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0 s"), (0.83, "0.8 s"), (5, "5 s"), (95, "95 s"), (300, "5 min"), (3600, "1 h"), (5400, "1.5 h")],
)
def test_times_are_written(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text

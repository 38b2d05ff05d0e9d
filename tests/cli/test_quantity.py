"""Times and sizes, read and written."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy.cli import param_types


@pytest.mark.parametrize(
    "text, seconds",
    [("90", 90), ("1.5", 1.5), (".5", 0.5), ("90s", 90), ("500ms", 0.5), ("15min", 900), ("4 h", 14400), ("1d", 86400)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert param_types.parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text, size",
    [
        *(("1000", 1000), ("1 B", 1), ("2kB", 2000), ("2GB", 2 * 10**9), ("1tb", 10**12)),
        *(("512MiB", 512 * 2**20), ("1.5gib", 3 * 2**29), ("4KiB", 4096), ("1TiB", 2**40)),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert param_types.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "+1", "1e3", "nan", "inf", "1,000", "10m", "1 hour ago", "٣"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert param_types.parse_seconds(text) is None


@pytest.mark.parametrize("text", ["", "512M", "1K", "2G", "-1", "1e9", "1 s"])
def test_what_is_no_size_or_could_be_two_is_none(text: str) -> None:
    assert param_types.parse_bytes(text) is None

"""The extent of a table that is one of many: whether it is so small that another way to publish suits it better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_safecopy.transfer.model import MiB, SizeClass

SMALL_ROWS = 10_000
SMALL_BYTES = MiB
"""A table of a batch that is no larger, on both sides, is not swapped unless that was asked for."""

TINY_BYTES = 256 * 1024
"""One that is no larger than this, and has no triggers or subscribers, has all of its rows written anew."""


def extent_of(row: Mapping[str, Any]) -> SizeClass:
    """Return how large a target table is by its statistics."""
    if row["rows"] > SMALL_ROWS or row["bytes"] > SMALL_BYTES:
        return "any"
    return "tiny" if row["bytes"] <= TINY_BYTES and row["unnoticed"] else "small"


def at_least(extent: SizeClass, rows: int | None, size: int | None) -> SizeClass:
    """Return how large a table is whose source is expected to have so many `rows` and bytes."""
    if rows is None or size is None or rows > SMALL_ROWS or size > SMALL_BYTES:
        return "any"
    return "small" if extent == "tiny" and size > TINY_BYTES else extent

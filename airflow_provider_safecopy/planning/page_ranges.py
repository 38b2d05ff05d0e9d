"""Pages: how one table is divided among lanes. Each reads a range of its pages, all of them in one snapshot.

A row version has one place, and the ranges cover all places, so each row is read once; whatever moves rows (VACUUM
FULL, CLUSTER) is kept out by the lock that the control session holds on the table as long as the snapshot lives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec, MiB, Strategy

LARGE_BYTES = 256 * MiB
"""From here on ``parallel="auto"`` divides a table: below, the second pair of sessions costs more than it brings."""

_AUTO_RANGES = 2
# One lane of a chunked copy keeps 1.7 of two processors busy where the servers share them, and two of them came out
# slower than one; sequentially, one after the other, a lane leaves the second processor idle: see docs/performance.md.
_PROCESSORS: dict[Literal["sequential", "chunked"], int] = {"sequential": 2, "chunked": 4}
_PAGES = sql.load("pages")
_NO_SWAP_REASON = "after a swap, readers with an older snapshot would miss rows loaded by several lanes"
_ONE_RANGE_HINT = "ask for parallel=1 with publish=swap, or leave publish out"


@dataclass(frozen=True)
class PageRange:
    """The pages from `first` up to but not including `end`; None means to the last, and what has come since."""

    first: int
    end: int | None


PageRanges = tuple[PageRange | None, ...]


def choose_page_ranges(
    spec: CopySpec,
    session: Session,
    source_relation: Relation | None,
    size: int | None,
    *,
    transfer: Literal["sequential", "chunked"],
    publish: Strategy,
) -> Finding[PageRanges]:
    """The lanes of a copy, and why: one for all, unless more were asked for and the source can be divided.

    A swap has one: what a second would gain is less than what any other way to publish would lose. Only rows that are loaded frozen are there for every snapshot, an imported one and one of a standby
    included, and COPY freezes rows only in the transaction that emptied the table: several sessions cannot share it.
    """
    wanted = spec.parallel
    if wanted == 1 or source_relation is None:
        return Finding((None,))
    if publish == "swap" and spec.source_table is not None:
        refused = Refusal(
            "parallel", f"{source_relation.label}: {_NO_SWAP_REASON}", source_relation.label, hint=_ONE_RANGE_HINT
        )
        asked = wanted != "auto" and spec.publish == "swap"
        return Finding((None,), (refused,) if asked else (), (f"parallel 1: {_NO_SWAP_REASON}",))
    if wanted == "auto":
        if (size or 0) < LARGE_BYTES:
            return Finding((None,), reasons=(f"parallel 1: less than {LARGE_BYTES // MiB} MiB",))
        if (processors := len(os.sched_getaffinity(0))) < (needed := _PROCESSORS[transfer]):
            few = f"parallel 1: {transfer} wants {needed} processors for more, this machine has {processors}"
            return Finding((None,), reasons=(few,))
    stored = (
        session.fetch_one(_PAGES["stored"], {"oid": source_relation.oid}) if spec.source_table is not None else None
    )
    if stored is None or not stored["by_place"]:
        told = (
            f"{source_relation.label} cannot be divided: only tables and materialized views that store rows by page can"
        )
        refused = Refusal("parallel", told, source_relation.label, hint="leave parallel out, or name a table")
        return Finding((None,), (refused,) if wanted != "auto" else (), (f"parallel 1: {told}",))
    lanes = tuple(divide_pages(int(stored["pages"]), _AUTO_RANGES if wanted == "auto" else int(wanted)))
    why = f"parallel {len(lanes)}: {stored['pages']:,} pages, in ranges under one snapshot"
    return Finding(lanes, reasons=(why,))


def divide_pages(page_count: int, parts: int) -> Iterator[PageRange | None]:
    """So many ranges of about the same length, or as many as there are pages; of one, no range at all."""
    count = max(1, min(parts, page_count))
    if count == 1:
        yield None
        return
    borders = [page_count * number // count for number in range(count)]
    yield from (PageRange(first, end) for first, end in zip(borders, [*borders[1:], None], strict=True))

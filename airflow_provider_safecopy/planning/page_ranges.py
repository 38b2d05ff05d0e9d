"""Page ranges: how one table is divided among pipes.

Each pipe reads a range of the table's pages, all of them in one snapshot. A row version has one place, and the ranges
cover all places, so each row is read once. Whatever moves rows (VACUUM FULL, CLUSTER) is kept out by the lock that the
control session holds on the table as long as the snapshot lives.
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
"""The size from which ``parallel="auto"`` divides a table.

Below it, the second pair of sessions costs more than it brings.
"""

_AUTO_RANGES = 2
# One pipe of a chunked copy keeps 1.7 of two processors busy where the servers share them, and two pipes were slower
# than one. A sequential pipe leaves the second processor idle: see docs/performance.md.
_PROCESSORS: dict[Literal["sequential", "chunked"], int] = {"sequential": 2, "chunked": 4}
_PAGES = sql.load("pages")
_NO_SWAP_REASON = "after a swap, readers with an older snapshot would miss rows loaded by several sessions"
_ONE_RANGE_HINT = "ask for parallel=1 with publish=swap, or leave publish out"


@dataclass(frozen=True)
class PageRange:
    """The pages from `first` up to but not including `end`.

    `end` is None for the last range: it also has the pages that were added since.
    """

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
    """Return the page ranges of a copy, one for each pipe, and why.

    There is one for all pages (None) unless more were asked for and the source can be divided. A swap has one: a second
    would gain less than any other publish strategy loses. Only rows that are loaded frozen are visible to every
    snapshot, imported ones and those of standbys included. COPY freezes rows only in the transaction that emptied the
    table, and several sessions cannot share it.
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
        # Not os.cpu_count(): a container or a worker may use only some of the processors of its machine.
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
    """Yield at most `parts` ranges of about the same length, no more than there are pages.

    A single range is yielded as None: the whole table.
    """
    count = max(1, min(parts, page_count))
    if count == 1:
        yield None
        return
    # From the product, not from a rounded length: the remainder is spread over all ranges.
    borders = [page_count * number // count for number in range(count)]
    yield from (PageRange(first, end) for first, end in zip(borders, [*borders[1:], None], strict=True))

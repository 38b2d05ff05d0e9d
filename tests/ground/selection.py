"""Choose what `make test` runs: each test that is not marked `slow`, and of a sweep over parameters a few cases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest


def mark_slow_cases(items: Iterable[pytest.Item]) -> None:
    """Mark as `slow` all cases of each sweep but as many as its marker says, evenly spread from the first to the last."""
    sweeps: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sweep"):
            sweeps[item.nodeid.partition("[")[0]].append(item)
    for cases in sweeps.values():
        marker = cases[0].get_closest_marker("sweep")
        assert marker is not None
        fast = spread(len(cases), *marker.args)
        for index, case in enumerate(cases):
            if index not in fast:
                case.add_marker(pytest.mark.slow)


def spread(cases: int, kept: int) -> Sequence[int]:
    """Return `kept` indexes of so many cases: the first, the last, and evenly spread ones between."""
    if kept >= cases:
        return range(cases)
    if kept == 1:
        return [0]
    return [round(index * (cases - 1) / (kept - 1)) for index in range(kept)]

"""Choose what `make test` runs: each test that is not marked `slow`, and one case of those with many costly ones.

A case that asks for a server or for Airflow takes half a second, another one a millisecond. So `make test` runs the
first case of each test that asks for one; the marker `sweep` says another number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import settings

COSTLY = frozenset({"servers", "ground", "airflow", "trial", "arena", "clocked"})
"""The fixtures that start a server or Airflow, or hand one on."""
_KEPT = 1


def mark_slow_cases(items: Iterable[pytest.Item]) -> None:
    """Mark as `slow` the cases of each test that `make test` leaves to `make test-all`."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        kept = spread(len(cases), _kept(cases[0], len(cases)))
        for index, case in enumerate(cases):
            if index not in kept:
                case.add_marker(pytest.mark.slow)


def spread(cases: int, kept: int) -> Sequence[int]:
    """Return `kept` indexes of so many cases: the first, the last, and evenly spread ones between."""
    if kept >= cases:
        return range(cases)
    if kept == 1:
        return [0]
    return [round(index * (cases - 1) / (kept - 1)) for index in range(kept)]


def number_of_examples(usual: int) -> int:
    """Return how many examples of a property to try: `usual`, a tenth of them in `make test`, more in a deep search."""
    return max(2, round(usual * settings().max_examples / 100))


def _kept(case: pytest.Item, cases: int) -> int:
    """Return how many cases of its test are fast."""
    if marker := case.get_closest_marker("sweep"):
        return int(marker.args[0])
    return _KEPT if COSTLY.intersection(getattr(case, "fixturenames", ())) else cases

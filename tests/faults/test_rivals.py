"""Two commands at once for one table, while its source changes: each publish is a whole snapshot, and never an older one.

The soak does this for minutes, with more of them and with Airflow; this is what must hold in any suite.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.soak.contender import STALE_SECONDS, Fate, Plan
from tests.soak.ground import Hosts
from tests.soak.rivals import Arena


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """On servers of its own, which keep the times of commits."""
    hosts = Hosts.start()
    try:
        yield Arena(hosts.pair("경쟁"), tmp_path_factory.mktemp("arena"))
    finally:
        hosts.stop()


def plan(owner: str, publish: str, fate: Fate | None = None, rate: str = "100MB") -> Plan:
    return Plan(owner, "command", publish, "chunked", 1, "wait", rate, fate)


def test_both_publish_one_after_the_other(arena: Arena) -> None:
    plans = [plan("둘_1", "swap", rate="200KB"), plan("둘_2", "delta", rate="200KB")]
    told = arena.hold("둘", plans, random.Random(1))
    assert told.violations == ()
    assert told.counts["command: published"] == 2
    assert told.counts["statements of the observer"] > 20
    assert told.counts["states it saw"] >= 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_the_other_publishes_when_one_is_killed_or_stopped(arena: Arena, number: signal.Signals) -> None:
    lasts = STALE_SECONDS + 2.0 if number == signal.SIGSTOP else 0.0
    struck = plan(f"{number.name}_1", "delete_insert", Fate(number, 1.2, lasts), rate="30KB")
    told = arena.hold(number.name, [struck, replace(struck, owner=f"{number.name}_2", fate=None)], random.Random(2))
    assert told.violations == ()
    assert told.counts[f"{number.name} sent"] == 1
    assert told.counts["command: published"] >= 1

"""Two commands at once for one table, while its source changes: each publish is a whole snapshot, and never an older one.

The soak does this for minutes, with more of them and with Airflow; this is what must hold in any suite.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.soak.contender import Fate, Plan
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


def test_the_other_publishes_when_one_is_killed(arena: Arena) -> None:
    struck = plan("죽는 쪽", "delete_insert", Fate(signal.SIGKILL, 0.5, holding=True), rate="30KB")
    told = arena.hold("죽임", [struck, replace(struck, owner="사는 쪽", fate=None, rate="100MB")], random.Random(2))
    assert told.violations == ()
    assert told.counts["SIGKILL sent"] == 1
    assert told.counts["takeover-dead"] == 1
    assert told.counts["command: published"] >= 1

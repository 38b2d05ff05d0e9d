"""The ledger, held to a model by a machine that changes, copies and crashes in any order; and shown to be noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.ground.database import ALWAYS, Servers
from tests.ledger.machine import LedgerMachine
from tests.ledger.mutants import MUTANTS
from tests.ledger.world import Runner, World, direct, whole

# How many examples the machine tries: more, and others each time, by ``LEDGER_EXAMPLES=2000 pytest tests/ledger``.
EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "15"))
QUICKLY_KILLED = ("ties_are_not_read_again",)


@pytest.fixture(scope="module")
def world(servers: Servers) -> Iterator[World]:
    source, target = (servers.create(major, "UTF8", None) for major in ALWAYS)
    world = World.made(source, target)
    yield world
    world.close()
    servers.drop(source)
    servers.drop(target)


def tried(world: World, runner: Runner, examples: int, steps: int) -> None:
    world.seen.clear()
    machine = type("LedgerMachine", (LedgerMachine,), {"world": world, "runner": staticmethod(runner)})
    bounded = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize="LEDGER_EXAMPLES" not in os.environ,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=bounded)


@pytest.mark.timeout(7200)
def test_whatever_happens_the_target_is_the_model(world: World) -> None:
    tried(world, direct, EXAMPLES, 20)
    published = {mode for mode, status, _ in world.seen if status == "published"}
    assert {"incremental", "append"} <= published
    assert len({fault for _, status, fault in world.seen if status == "crashed"}) > 3


@pytest.mark.timeout(7200)
def test_whatever_happens_to_whole_copies_the_target_is_the_model(world: World) -> None:
    tried(world, whole, max(6, EXAMPLES // 5), 15)
    assert sum(count for (_, status, _), count in world.seen.items() if status == "published")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("fault", MUTANTS if "LEDGER_EXAMPLES" in os.environ else QUICKLY_KILLED)
def test_the_machine_bites(world: World, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """All the others: with LEDGER_EXAMPLES."""
    MUTANTS[fault](monkeypatch)
    with pytest.raises(AssertionError):
        tried(world, direct, max(60, EXAMPLES), 15)

"""The ledger, held to a model by a machine that changes, copies and crashes in any order; and shown to be noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from airflow_provider_safecopy.lock import schema
from tests.ledger.machine import LedgerMachine
from tests.ledger.mutants import MUTANTS, Break, Scene
from tests.ledger.world import Runner, World, direct, whole
from tests.support.database import ALWAYS, Servers

pytestmark = pytest.mark.slow

# How many examples the machine tries: more, and others each time, by ``LEDGER_EXAMPLES=2000 pytest tests/ledger``.
EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "15"))


@pytest.fixture(scope="module", autouse=True)
def _trusted_faults() -> Iterator[None]:
    """Let the ledger have triggers named `fail`, which make the faults. Any other trigger there is still refused."""
    suspicions = schema._TRUST["suspicions"]
    allowed = (
        f"SELECT kind, what FROM ({suspicions}) AS every WHERE what !~ ' has the (trigger|constraint) fail(_late)?$'"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "CHECK", schema.CHECK.replace(suspicions, allowed))
        patch.setattr(schema, "_PRESENT_WITH_SUSPICIONS", schema._PRESENT_WITH_SUSPICIONS.replace(suspicions, allowed))
        yield


@pytest.fixture(scope="module")
def world(servers: Servers) -> Iterator[World]:
    source, target = (servers.create(major, "UTF8", None) for major in ALWAYS)
    world = World.made(source, target)
    yield world
    world.close()
    servers.drop(source)
    servers.drop(target)


def machine_of(world: World, runner: Runner) -> type[LedgerMachine]:
    return type("LedgerMachine", (LedgerMachine,), {"world": world, "runner": staticmethod(runner)})


def tried(world: World, runner: Runner, examples: int, steps: int) -> None:
    world.seen.clear()
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
    run_state_machine_as_test(machine_of(world, runner), settings=bounded)


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


@pytest.mark.parametrize("fault", MUTANTS, ids=lambda fault: fault.__name__)
def test_the_machine_notices(world: World, monkeypatch: pytest.MonkeyPatch, fault: Break) -> None:
    acted(world, MUTANTS[fault])
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        acted(world, MUTANTS[fault])


def acted(world: World, scene: Scene) -> None:
    """A scene, and what must hold after it. Its lookback is 2 where it is about late rows."""
    machine = machine_of(world, direct)()
    machine.empty(2 if "late" in scene.__name__ else 0)
    scene(machine)
    machine.the_target_is_the_model()
    machine.each_slice_is_there_once()

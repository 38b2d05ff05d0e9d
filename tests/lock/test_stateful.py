"""The lock's protocol, held to its invariants by a machine that does anything in any order, and by directed examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import MakeDatabase
from tests.lock.examples import EXAMPLES
from tests.lock.machine import LockMachine
from tests.lock.mutants import MUTANTS, bounded, killed_by
from tests.lock.world import World
from tests.support.database import ALWAYS, Servers

QUICKLY_KILLED = ("the fence holds no row", "the try has no say", "one dead member is enough")


@pytest.fixture(scope="module")
def world(servers: Servers) -> Iterator[World]:
    database = servers.create(ALWAYS[-1], "UTF8", None)
    world = World.made(database)
    yield world
    world.close()
    servers.drop(database)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_the_real_statements_pass_the_example(world: World, example: Callable[[World], None]) -> None:
    example(world)


@pytest.mark.slow
def test_whatever_is_done_to_a_lock_it_keeps_its_rules(world: World) -> None:
    machine = type("LockMachine", (LockMachine,), {"world": world})
    run_state_machine_as_test(machine, settings=bounded(100))


@pytest.mark.slow
def test_the_mutants_are_mutants() -> None:
    assert len({mutant.fault for mutant in MUTANTS}) == len(MUTANTS) >= 9
    for mutant in MUTANTS:
        assert mutant.changes()


@pytest.mark.slow
@pytest.mark.parametrize("fault", QUICKLY_KILLED)
def test_the_machine_bites(database: MakeDatabase, fault: str) -> None:
    """All the others: `make mutants`."""
    (mutant,) = [each for each in MUTANTS if each.fault == fault]
    assert "the machine" in killed_by(mutant.changes(), lambda changes: World.made(database(), changes), 100)

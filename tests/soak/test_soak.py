"""A short soak finds nothing wrong, and one on spoiled ground does: then it ends with another exit code than 0."""

from __future__ import annotations

import random

import pytest

from tests.soak import attempt, generations, soak
from tests.soak.attempt import Draw
from tests.soak.faults import FAULTS
from tests.soak.generations import misseen
from tests.support.database import Database

# Of this seed the first faults are quick: a restart of the target, sessions ended, SIGINT; and the rivals soon over.
SHORT = ["--minutes", "1", "--seed", "139059", "--rounds", "1", "--rivals", "2", "--no-airflow", "--attempts"]


@pytest.mark.slow
def test_a_short_soak_finds_no_violation() -> None:
    said: list[str] = []
    assert soak.main([*SHORT, "3"], said.append) == 0, "\n".join(said)
    attempts = [line for line in said if line.startswith("seed 139059 #")]
    assert len(attempts) == 4, "three and a round of rivals"
    assert all("clean after" in line for line in attempts if "#r" not in line and "never struck" not in line)
    assert said[-1].startswith("0 violations")


def _take_a_row(target: Database) -> None:
    for table in (attempt.TABLE, generations.TABLE):
        if target.value("SELECT to_regclass(%s) IS NOT NULL", [table]):
            target.execute(f'DELETE FROM {table} WHERE "번호" = (SELECT max("번호") FROM {table})')


@pytest.mark.slow
def test_a_soak_notices_a_row_that_is_missing() -> None:
    said: list[str] = []
    assert soak.main([*SHORT, "1"], said.append, _take_a_row) == 1
    found = [line.strip() for line in said if "VIOLATION" in line]
    assert any(line.startswith("VIOLATION neither old nor new") for line in found), said
    assert any(line.startswith("VIOLATION a mixture was seen") for line in found), said
    assert not said[-1].startswith("0 violations")


def test_a_number_of_a_seed_is_always_the_same_and_each_fault_has_its_turn() -> None:
    first, again = ([Draw.of(7, number) for number in range(1, 2 * len(FAULTS) + 1)] for _ in range(2))
    assert first == again
    assert sorted(each.fault.name for each in first) == sorted(each.name for each in FAULTS * 2)
    assert first != [Draw.of(8, each.number) for each in first]


@pytest.mark.parametrize(
    ("sights", "told"),
    [
        ([(9, 1), (9, 2), (9, 3)], []),
        ([(9, 1), (9, 3)], []),
        ([(9, 2), (9, 1)], ["generation 1 was seen after 2"]),
        ([(9, 1), (8, 7), (9, 2)], ["a mixture was seen: 8 rows"]),
        ([(9, 1), (0, 0), (9, 2)], ["a mixture was seen: 0 rows"]),
    ],
    ids=["in order", "one missed", "backwards", "mixed", "empty"],
)
def test_what_nobody_may_see_is_told(sights: list[tuple[int, int]], told: list[str]) -> None:
    assert misseen(sights, {(9, 1): 1, (9, 2): 2, (9, 3): 3}) == told


def test_an_attempt_draws_from_its_own_dice_alone() -> None:
    random.seed(1)
    first = Draw.of(7, 5)
    random.seed(2)
    assert Draw.of(7, 5) == first

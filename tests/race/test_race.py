"""The race of `make race`, in less than a minute: nothing violated, enough of everything, and its ablations caught."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# A fifth of what an idle machine of two cores brings about: this must hold beside the rest of the suite.
ENOUGH = {
    "grants": 60,
    "takeovers, stale": 10,
    "joins": 5,
    "supersedes": 6,
    "releases and leaves": 60,
    "publishes acknowledged": 50,
    "sessions terminated": 10,
    "fenced at heartbeat": 4,
    "fenced at publish": 2,
    "stops": 30,
    "deaths": 6,
    "hit with COMMIT in flight": 3,
    "snapshots observed": 300,
}


@pytest.fixture(scope="module")
def raced() -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    command = [
        sys.executable,
        "-m",
        "tests.race.race",
        "--seconds",
        "18",
        "--quick",
        "--ablation-seconds",
        "25",
        "--copy-seconds",
        "12",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.stdout, done.stderr
    lines = done.stdout.splitlines()
    return done, json.loads(lines[-1]) if lines[-1].startswith("[") else []


@pytest.mark.timeout(300)
def test_nothing_is_violated(raced: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]) -> None:
    done, found = raced
    assert found, done.stdout + done.stderr
    assert found[0]["violations"] == {}, done.stdout
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_enough_happened_for_that_to_mean_something(
    raced: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    done, found = raced
    counts = found[0]["counts"]
    assert {name: counts[name] for name, least in ENOUGH.items() if counts[name] < least} == {}, done.stdout
    assert counts["takeovers, crashed"] + counts["takeovers, dead"] >= 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ablation", ["no fence", "no row lock"])
def test_without_the_fence_it_bites(
    raced: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]], ablation: str
) -> None:
    done, found = raced
    (one,) = [each for each in found if each["name"] == ablation]
    assert {"C1", "C1b", "C3", "C5"} & set(one["violations"]), done.stdout


@pytest.mark.timeout(300)
def test_what_is_published_beside_an_adversary_is_what_was_proven(
    raced: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    """Others change what the target refers to, and what refers to it, all the time: rows after COMMIT are the proven ones.

    The published table is compared with its receipt inside each publishing transaction. With foreign keys on staging, as
    they once were, the same adversary is noticed.
    """
    done, found = raced
    (beside,) = [each for each in found if each["name"] == "adversary"]
    (keyed,) = [each for each in found if each["name"] == "keys on staging"]
    assert beside["violations"] == {}, done.stdout
    assert beside["counts"].get("swap published", 0) >= 1, done.stdout
    assert beside["counts"]["compared before COMMIT"] >= 2, done.stdout
    assert beside["counts"]["statements of the adversary"] >= 200, done.stdout
    assert {"A1", "A2"} & set(keyed["violations"]), done.stdout

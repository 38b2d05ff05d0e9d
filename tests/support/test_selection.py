"""Check the choice of the fast tests: a test with many costly cases keeps a few of them."""

from __future__ import annotations

import pytest

from tests.support.selection import spread

pytest_plugins = "pytester"

SUITE = """
import pytest

def test_fast():
    pass

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.parametrize("number", range(3))
def test_quick(number):
    pass

@pytest.mark.sweep(3)
@pytest.mark.parametrize("number", range(5))
def test_swept(number):
    pass

@pytest.mark.parametrize("number", range(5))
def test_costly(number, servers):
    pass
"""
CONFTEST = """
import pytest
from tests.support.selection import mark_slow_cases

@pytest.fixture
def servers():
    pass

def pytest_configure(config):
    config.addinivalue_line("markers", "slow")
    config.addinivalue_line("markers", "sweep(kept)")

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    mark_slow_cases(items)
"""


@pytest.mark.parametrize(
    ("cases", "kept", "indexes"),
    [(1, 3, [0]), (3, 3, [0, 1, 2]), (9, 1, [0]), (9, 2, [0, 8]), (9, 3, [0, 4, 8]), (100, 4, [0, 33, 66, 99])],
)
def test_cases_are_evenly_spread(cases: int, kept: int, indexes: list[int]) -> None:
    assert list(spread(cases, kept)) == indexes


def test_the_fast_tests_are_those_not_marked_and_one_case_of_those_with_many_costly_ones(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SUITE)
    found = pytester.inline_run("-m", "not slow").listoutcomes()[0]
    names = [report.nodeid.partition("::")[2] for report in found]
    quick = ["test_fast", "test_quick[0]", "test_quick[1]", "test_quick[2]"]
    assert names == [*quick, "test_swept[0]", "test_swept[2]", "test_swept[4]", "test_costly[0]"]


def test_all_tests_run_without_a_choice(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SUITE)
    pytester.inline_run().assertoutcome(passed=15)

"""`make test` leaves no promise out: each of the README and each row of docs/reliability.md has a fast test of a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from tests.support.selection import COSTLY
from tests.test_reliability import ROOT, file_of, rows

TESTS = {
    "Old or new.": (
        "tests/faults/test_process.py::test_a_copy_killed_at_any_moment_leaves_the_old_rows_or_the_new_ones",
        "tests/publish/strategies/test_swap.py::test_readers_see_old_or_new_and_hardly_wait",
    ),
    "Proven before published.": (
        "tests/faults/test_psql.py::test_a_lie_about_the_rows_is_found_out_before_anything_is_committed",
        "tests/test_pipeline.py::test_the_receipt_is_committed_with_the_rows",
    ),
    "One run at a time": (
        "tests/test_overlap.py::test_a_second_run_is_refused_and_told_by_whom",
        "tests/airflow/test_living_lock.py::test_a_second_run_is_refused_or_skipped_as_a_whole",
    ),
    "whatever a displaced run still does, it cannot publish": (
        "tests/test_overlap.py::test_a_paused_run_that_wakes_up_later_cannot_publish",
    ),
    "Nothing hangs for ever.": (
        "tests/faults/test_psql.py::test_a_stage_that_outlives_its_own_timeout_is_ended",
        "tests/faults/test_server.py::test_a_statement_that_computes_for_ever_is_ended_on_the_server_too",
    ),
    "Nothing is left.": (
        "tests/faults/test_process.py::test_a_killed_copy_takes_its_children_and_sessions_along",
        "tests/test_pipeline.py::test_staging_of_a_dead_run_is_swept_and_that_of_a_living_one_is_not",
    ),
    "The relation survives.": (
        "tests/publish/test_dependents.py::test_nothing_is_lost",
        "tests/publish/strategies/test_swap.py::test_the_rows_are_new_and_all_else_is_as_it_was",
    ),
    "Names are bytes.": (
        "tests/test_odd_tables.py::test_any_legal_name_works_for_schema_table_and_column",
        "tests/test_odd_tables.py::test_nfc_and_nfd_twins_are_two_tables",
    ),
}
"""The fast tests of each promise of the README."""

WITHOUT_A_SERVER = {
    "A URI whose password has a raw `@` or `/`, or any other slip of the pen",
    "Any words on the command line",
    "Lines of a lock's history are garbled",
    "The state file of a lock (`FileStore`) is garbled",
}
"""The rows of docs/reliability.md in which nothing reaches a server."""

_TWENTY = "tests/lock/test_connection_gate.py::test_twenty_copies_open_one_after_the_other_and_then_run_all_at_once"
EXAMS = {"tests/ledger/test_ledger.py", "tests/race/test_race.py", "tests/postgres/test_memory.py", _TWENTY}
"""What takes minutes, and shows by chance or by size what the fast tests of the same pages show by one case."""

_NAMED = re.compile(r"`((?:tests/)?[\w/]+\.py)::(\w+)`")
_COLLECT = """
import json, sys, pytest

class Found:
    def pytest_collection_finish(self, session):
        found = {item.nodeid.partition("[")[0]: item.fixturenames for item in session.items}
        print("\\nFOUND " + json.dumps(found))

sys.exit(pytest.main(["--collect-only", "-qq", "-m", "not slow", *sys.argv[1:]], plugins=[Found()]))
"""


@pytest.fixture(scope="module")
def fast() -> Mapping[str, bool]:
    """Return the tests that `make test` runs of all files that are named, and whether each asks for a server."""
    named = {test.partition("::")[0] for tests in [*TESTS.values(), *map(named_in, lines())] for test in tests}
    command = [sys.executable, "-c", _COLLECT, *sorted(named)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Sequence[str]] = json.loads(done.stdout.partition("\nFOUND ")[2].splitlines()[0])
    # A page names a class of tests by its file and name.
    return {"::".join(test.split("::")[:2]): bool(COSTLY.intersection(fixtures)) for test, fixtures in found.items()}


def lines() -> list[str]:
    """Return the lines of all pages; a row of a table is one."""
    return [line for page in sorted((ROOT / "docs").glob("*.md")) for line in page.read_text("utf-8").splitlines()]


def named_in(line: str) -> list[str]:
    """Return the tests that a line names."""
    return [f"{file_of(file).relative_to(ROOT)}::{test}" for file, test in _NAMED.findall(line)]


def test_each_promise_of_the_readme_has_fast_tests_of_a_real_server(fast: Mapping[str, bool]) -> None:
    promised = (ROOT / "README.md").read_text("utf-8").partition("## What is promised")[2].partition("\n## ")[0]
    assert [" ".join(name.split()) for name in re.findall(r"\*\*(.+?)\*\*", promised, re.DOTALL)] == list(TESTS)
    missing = [test for tests in TESTS.values() for test in tests if not fast.get(test)]
    assert missing == [], "slow, gone, or without a server"


def test_each_fault_has_a_fast_test_of_a_real_server(fast: Mapping[str, bool]) -> None:
    bare = {row[0] for row in rows() if not any(fast.get(test) for test in named_in(row[-1]))}
    assert bare == WITHOUT_A_SERVER


def test_each_line_of_a_page_that_names_tests_names_a_fast_one(fast: Mapping[str, bool]) -> None:
    slow = [line for line in lines() if (tests := named_in(line)) and not any(test in fast for test in tests)]
    left_out = {test for line in slow for test in named_in(line)}
    assert [test for test in left_out if not EXAMS.intersection([test, test.partition("::")[0]])] == []

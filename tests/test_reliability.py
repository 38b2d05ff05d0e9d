"""docs/reliability.md promises nothing that no test shows: each row names its test, and each file of faults is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
_TEST = re.compile(r"`((?:tests/)?[\w/]+\.py)::(\w+)`")
_CELLS = 5


def rows() -> list[list[str]]:
    """The rows of all tables of faults, without their heads."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-: ") and row[0] != "Fault"]


def file_of(named: str) -> Path:
    return ROOT / named if named.startswith("tests/") else ROOT / "tests" / "faults" / named


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_each_row_names_a_test_that_there_is(row: list[str]) -> None:
    assert len(row) == _CELLS, row
    assert all(row), f"an empty cell: {row}"
    found = _TEST.findall(row[-1])
    assert found, f"no test: {row[-1]}"
    for named, test in found:
        assert re.search(rf"^\s*def {test}\(", file_of(named).read_text("utf-8"), re.MULTILINE), f"{named}::{test}"


def test_each_file_of_faults_is_named() -> None:
    text = PAGE.read_text("utf-8")
    files = {path.name for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert {name for name in files if name not in text} == set()

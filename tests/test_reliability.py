"""docs/reliability.md promises nothing that no test shows: each row names a test of `make test`, and each file of faults is named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
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


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_make_test_shows_each_row(row: list[str]) -> None:
    found = _TEST.findall(row[-1])
    assert any(test not in slow_tests(file_of(named)) for named, test in found), f"all slow: {row[-1]}"


@cache
def slow_tests(file: Path) -> frozenset[str]:
    """Return the names of a file's tests that `make test` leaves out."""
    module = ast.parse(file.read_text("utf-8"))
    tests = {node.name: node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    if any(_is_slow(assigned) for assigned in _marks_of_the_file(module)):
        return frozenset(tests)
    return frozenset(name for name, node in tests.items() if any(map(_is_slow, node.decorator_list)))


def _marks_of_the_file(module: ast.Module) -> Iterator[ast.expr]:
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield from node.value.elts if isinstance(node.value, ast.List) else [node.value]


def _is_slow(marker: ast.expr) -> bool:
    return ast.unparse(marker).startswith("pytest.mark.slow")


def test_each_file_of_faults_is_named() -> None:
    text = PAGE.read_text("utf-8")
    files = {path.name for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert {name for name in files if name not in text} == set()

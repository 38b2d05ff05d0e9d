"""Checks return findings, and no function appends to a list that its caller hands in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import airflow_provider_safecopy
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.finding import Finding, join, refuse

PACKAGE = Path(airflow_provider_safecopy.__file__).parent


def test_findings_are_joined_in_their_order_and_without_their_values() -> None:
    one, two = Refusal("bad_sql", "하나"), Refusal("bad_sql", "둘")
    first = Finding(1, (one,), ("because",), ("warning",))
    joined = join(first, refuse([two]), Finding("값", reasons=("too",)))
    assert joined == Finding(None, (one, two), ("because", "too"), ("warning",))
    assert join() == Finding(None)


def test_no_function_appends_to_a_list_of_its_callers() -> None:
    found = [place for path in PACKAGE.rglob("*.py") for place in appending(path)]
    assert not found


def appending(path: Path) -> Iterator[str]:
    """Places where a function changes a parameter of its own that is declared to be a list."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        lists = {each.arg for each in arguments if each.annotation and ast.unparse(each.annotation).startswith("list[")}
        calls = (node for node in ast.walk(function) if isinstance(node, ast.Call | ast.AugAssign))
        for node in calls:
            changed = (
                node.func.value
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"append", "extend", "insert"}
                else node.target
                if isinstance(node, ast.AugAssign)
                else None
            )
            if isinstance(changed, ast.Name) and changed.id in lists:
                yield f"{path.name}:{node.lineno}: {changed.id}"

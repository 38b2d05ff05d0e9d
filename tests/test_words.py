"""The measure of the language measures what it says: each figure moves with what it is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import words

GOOD = '''"""Read what people wrote."""

import json


def read_answer() -> str:
    """Return the answer."""
    # The server may send it twice.
    return json.dumps("answer")
'''
BAD = '''"""What is read."""

from json import (
    dumps,
)


def told() -> str:
    """Who is told, nobody knows."""
    return dumps("told")
'''


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("told", True),
        ("_taken", True),
        ("of", True),
        ("wanted_by", True),
        ("refused", True),
        ("read_answer", False),
        ("feed", False),
        ("__set__", False),
        ("is_closed", False),
        ("_", False),
    ],
)
def test_a_bare_participle_or_preposition_is_known_as_such(name: str, expected: bool) -> None:
    assert words.is_bare(name) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("What is read.", True), ("Whether: it is", True), ("However it ends.", False), ("Return what is read.", False)],
)
def test_a_riddle_at_the_start_of_a_docstring_is_known_as_such(text: str, expected: bool) -> None:
    assert words.opens_badly(text) is expected


def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> dict[str, words.Figure]:
    monkeypatch.setattr(words, "ROOT", tmp_path)
    module = tmp_path / "module.py"
    module.write_text(text)
    return {figure.name.split(",")[0]: figure for figure in words.measure([module], [])}


def test_good_words_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(tmp_path, monkeypatch, GOOD)
    assert {name for name, figure in found.items() if not figure.holds} == {"import lines"}
    assert found["import lines"].value == pytest.approx(100 / 9)


def test_bad_words_do_not_hold_and_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(tmp_path, monkeypatch, BAD)
    assert not any(figure.holds for figure in found.values())
    assert found["functions named by a bare participle or preposition"].places == ("module.py: told",)
    assert found["docstrings that open with What"].value == pytest.approx(100)
    assert found["nobody"].places == ("Who is told, nobody knows.",)
    assert found["import lines"].value == pytest.approx(100 * 3 / 10)

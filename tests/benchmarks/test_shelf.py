from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import shelf
from benchmarks.shelf import MissingError, Shelf


@pytest.mark.slow
def test_a_package_that_cannot_be_installed_is_missed_and_not_taken_for_installed(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="ERROR") as caught:
        Shelf(tmp_path).python("없음", str(tmp_path / "no-such-package"))
    assert str(tmp_path) not in str(caught.value), "it is kept with the results"
    assert not (tmp_path / "없음" / "done").exists()


def test_versions_are_found_in_what_a_program_says() -> None:
    assert shelf.version(r"Python (\S+)", sys.executable, "--version").startswith("3.")
    with pytest.raises(MissingError, match="says no version"):
        shelf.version(r"Pithon (\S+)", sys.executable, "--version")
    with pytest.raises(MissingError):
        shelf.version(r"(.)", "/no/such/program")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "Looking at https://host.example/simple\nERROR: no matching distribution\nmore",
            "ERROR: no matching distribution",
        ),
        ("one\nlast line, of /home/who/there/it.py", "last line, of …"),
        ("error: postgresql://me:secret@host/db refused", "error: … refused"),
        ("", "no reason was given"),
    ],
)
def test_reasons_are_told_without_places(words: str, told: str) -> None:
    assert shelf.brief(words) == told

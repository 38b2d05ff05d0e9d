"""What the processes of a race say of themselves: a file for each, a line for each word, and no line is lost by a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Word:
    """One line of a report: what happened, and more about it."""

    what: str
    of: dict[str, Any]


class Report:
    """A file to which lines are appended, each by one system call: there as a whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def say(self, what: str, **of: Any) -> None:
        line = json.dumps([what, of], ensure_ascii=False) + "\n"
        os.write(self._file, line.encode())


def read(directory: Path) -> Iterator[Word]:
    """All that was said, by whomever."""
    for path in sorted(directory.iterdir()):
        yield from read_one(path)


def read_one(path: Path) -> Iterator[Word]:
    for line in path.read_text("utf-8").splitlines():
        what, of = json.loads(line)
        yield Word(what, of)

"""What the person who waits is told: on stderr, with how long it will take yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from benchmarks.results import Run


class Progress:
    """Lines with the time since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {words}", file=sys.stderr, flush=True)  # noqa: T201 -- its purpose

    def round(self, runs: Sequence[Run], *, rounds: int, seconds: float) -> None:
        """A round of so many is over, which took so long, checkpoints included."""
        section, table, number = runs[0].section, runs[0].table, runs[0].round
        left = (rounds - number) * seconds
        each = ", ".join(f"{run.name} {run.wall:.2f}" for run in runs)
        then = f"; about {left:.0f} s more" if left else ""
        self.say(f"{section} {table}, round {number} of {rounds}: {each}{then}")

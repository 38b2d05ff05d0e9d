"""One call of `make bench`: what was asked for, what it runs on, and where its results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.pair import Pair
from benchmarks.progress import Progress
from benchmarks.results import Results


@dataclass(frozen=True)
class Options:
    """What was asked for; sizes in bytes of heap. `contestants` are names, None is all of them."""

    size: int
    peer_size: int
    rounds: int
    tables: tuple[str, ...]
    growth: tuple[int, ...]
    contestants: tuple[str, ...] | None
    peers: tuple[str, ...] | None
    peer_cache: Path


@dataclass(frozen=True)
class Session:
    """What every section is given."""

    options: Options
    pair: Pair
    results: Results
    progress: Progress
    directory: Path

    def save(self) -> None:
        """Now, so that what has been measured is not lost with what comes after it."""
        self.results.save(self.directory)

    def note(self, section: str, words: str) -> None:
        """Something that has to be said beside the figures of a section."""
        self.progress.say(f"{section}: {words}")
        notes = self.results.notes.setdefault(section, [])
        if words not in notes:
            notes.append(words)

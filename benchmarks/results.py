"""What was measured: single runs, kept as JSON, and merged when a part of them is measured anew."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Run:
    """One run of one contestant: seconds and bytes.

    `heap` is the table's size on the source. `own_rss` is the most memory the copying process had by its own account,
    `peak_rss` the most of its whole tree; `temp_bytes` its temporary disk. None is what is not known. `held` is how long the
    source's transaction was open, `tables` how many were copied. `memory` is kept of the last round alone.
    """

    section: str
    table: str
    name: str
    round: int
    wall: float
    client_cpu: float
    machine_cpu: float
    peak_rss: int
    rows: int = 0
    heap: int = 0
    own_rss: int | None = None
    temp_bytes: int | None = None
    stream_bytes: int | None = None
    held: float | None = None
    tables: int = 1
    memory: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class Spread:
    """The least, the median and the most of some figures."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Self | None:
        """None where there are no figures."""
        sorted_ = sorted(figures)
        return cls(sorted_[0], statistics.median(sorted_), sorted_[-1]) if sorted_ else None


@dataclass
class Results:
    """All runs, what they ran on (`about`), and what has to be said beside (`notes`, by section)."""

    runs: list[Run] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Of a directory; empty where nothing has been kept there."""
        path = directory / "results.json"
        if not path.exists():
            return cls()
        kept = json.loads(path.read_text("utf-8"))
        runs = [Run(**run | {"memory": tuple(map(tuple, run["memory"]))}) for run in kept["runs"]]
        return cls(runs, kept["about"], kept["notes"])

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        runs = ",\n".join(json.dumps(_brief(run), ensure_ascii=False) for run in self.runs)
        head = json.dumps({"about": self.about, "notes": self.notes}, ensure_ascii=False, indent=1)
        (directory / "results.json").write_text(f'{head[:-2]},\n "runs": [\n{runs}\n]}}\n', "utf-8")

    def put(self, runs: Iterable[Run]) -> None:
        """In the place of all earlier runs of the same table in the same section."""
        fresh = list(runs)
        places = {(run.section, run.table) for run in fresh}
        self.runs = [run for run in self.runs if (run.section, run.table) not in places] + _with_last_memory(fresh)

    def of(self, section: str, table: str | None = None, name: str | None = None) -> list[Run]:
        """Those that match what is given, by round."""
        return [
            run
            for run in self.runs
            if run.section == section and table in {None, run.table} and name in {None, run.name}
        ]

    def tables(self, section: str) -> list[str]:
        return list(dict.fromkeys(run.table for run in self.of(section)))

    def names(self, section: str, table: str | None = None) -> list[str]:
        return list(dict.fromkeys(run.name for run in self.of(section, table)))

    def ratios(self, section: str, table: str, name: str, base: str, figure: str = "wall") -> Spread | None:
        """Pair by pair: each round's run by the base's of the same round."""
        bases = {run.round: run for run in self.of(section, table, base)}
        pairs = [(run, bases[run.round]) for run in self.of(section, table, name) if run.round in bases]
        return Spread.of(
            getattr(run, figure) / getattr(other, figure) for run, other in pairs if getattr(other, figure)
        )

    def spread(self, section: str, table: str, name: str, figure: str = "wall") -> Spread | None:
        figures: list[float | None] = [getattr(run, figure) for run in self.of(section, table, name)]
        return Spread.of(each for each in figures if each is not None)


def _with_last_memory(runs: list[Run]) -> list[Run]:
    """The course of memory takes much room: one run of each contestant shows it."""
    last: Mapping[tuple[str, str, str], int] = {
        (run.section, run.table, run.name): run.round for run in sorted(runs, key=lambda run: run.round)
    }
    return [run if last[run.section, run.table, run.name] == run.round else replace(run, memory=()) for run in runs]


def _brief(run: Run) -> dict[str, Any]:
    """Without what is not known, and no digits nobody can measure."""
    kept = {name: value for name, value in asdict(run).items() if value is not None}
    kept = {name: round(value, 4) if isinstance(value, float) else value for name, value in kept.items()}
    return kept | {"memory": [[round(at, 2), size] for at, size in run.memory]}

"""What came of each attempt and each round, counted: the summary, and whether anything was violated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.errors import PublishUnknownError
from tests.faults.invariant import Held

_UNKNOWN = exitcode.ERROR_CODES[PublishUnknownError]


@dataclass(frozen=True)
class Outcome:
    """What came of one single fault. Times are in seconds from when it struck."""

    number: str
    fault: str
    of: str
    """Everything else that was drawn."""
    struck: bool
    code: int | None
    """The exit code, negative for a signal; None: it had to be killed."""
    held: Held | None
    """What the target held after the run; None: neither."""
    to_error: float | None
    to_clean: float | None
    violations: tuple[str, ...]

    def __str__(self) -> str:
        ended = "hung" if self.code is None else f"exit code {self.code}"
        times = [(self.to_error, "error"), (self.to_clean, "clean")]
        told = "".join(f", {what} after {seconds:.1f} s" for seconds, what in times if seconds is not None)
        struck = "" if self.struck else " (never struck)"
        return f"{self.number} {self.fault}{struck}; {self.of}: {ended}, {self.held or 'neither old nor new'}{told}"


@dataclass(frozen=True)
class Round:
    """What came of one round of rivals."""

    number: str
    of: str
    counts: Counter[str]
    violations: tuple[str, ...]

    def __str__(self) -> str:
        told = ", ".join(f"{name} {count}" for name, count in self.counts.items() if count)
        return f"{self.number} {self.of}: {told}"


def violations(outcomes: Sequence[Outcome], rounds: Sequence[Round]) -> int:
    return sum(len(each.violations) for each in outcomes) + sum(len(each.violations) for each in rounds)


def printed(outcomes: Sequence[Outcome], rounds: Sequence[Round]) -> str:
    """The summary."""
    return "\n".join([*_faults(outcomes), "", *_rivals(rounds)])


def _faults(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A row for each fault, and one for all. `struck`: in the others the run was over before the moment came."""
    groups: dict[str, list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault(each.fault, []).append(each)
    head = ["fault", "attempts", "struck", "old", "new", "unknown", "recovered", "to error, s", "to clean, s"]
    rows = [[*head, "violations", "exit codes (signals below 0) x times"]]
    rows += [_row(name, found) for name, found in sorted(groups.items())]
    rows.append(_row("all", list(outcomes)))
    yield from _aligned(rows)


def _row(name: str, found: Sequence[Outcome]) -> list[str]:
    codes = Counter("hung" if each.code is None else str(each.code) for each in found)
    held = Counter(each.held for each in found)
    counted = [len(found), sum(each.struck for each in found), held["old"], held["new"]]
    counted.append(sum(each.code == _UNKNOWN for each in found))
    counted.append(sum(each.to_clean is not None or (not each.struck and not each.violations) for each in found))
    times = [_longest(each.to_error for each in found), _longest(each.to_clean for each in found)]
    wrong = sum(len(each.violations) for each in found)
    told = ", ".join(f"{code} x {count}" for code, count in sorted(codes.items()))
    return [name, *map(str, counted), *times, str(wrong), told]


def _longest(seconds: Iterator[float | None]) -> str:
    known = [each for each in seconds if each is not None]
    return f"{max(known):.1f}" if known else "-"


def _rivals(rounds: Sequence[Round]) -> Iterator[str]:
    """All counts of all rounds."""
    counts: Counter[str] = Counter()
    for each in rounds:
        counts.update(each.counts)
    rows = [["rivals", "count"], ["rounds", f"{len(rounds):,}"]]
    rows += [[name, f"{count:,}"] for name, count in sorted(counts.items())]
    yield from _aligned([*rows, ["violations", str(sum(len(each.violations) for each in rounds))]])


def _aligned(rows: list[list[str]]) -> list[str]:
    """The first column and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if place == 0 or (place == last and last > 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

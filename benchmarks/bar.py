"""The bars of what was promised, and whether the figures clear them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import growth, ratio
from benchmarks.contestant import CHUNKED, IN_MEMORY, PARALLEL, RAW_BINARY, RAW_TEXT, SEQUENTIAL, SEQUENTIAL_TWO
from benchmarks.data import KEYED
from benchmarks.results import Results, Spread

MB = 1_000_000
LARGE = 990 * MB
"""From here on a table counts as one of a gigabyte, for which the bars of the ratios are."""

_CHUNKED_BY_TEXT = {"lineitem": 0.80, "korean": 0.88, "integers": 0.95, "types": 0.70}
_OF_ANY_TABLE = (
    (CHUNKED, RAW_BINARY, 1.05),
    (SEQUENTIAL, RAW_TEXT, 1.25),
    (CHUNKED, IN_MEMORY, 0.65),
    (PARALLEL, CHUNKED, 0.85),
    (SEQUENTIAL_TWO, SEQUENTIAL, 0.85),
    (SEQUENTIAL_TWO, RAW_TEXT, 1.25),
)
MEMORY = 60 * MB
"""Beyond an idle interpreter, of the copying process and its psql together."""

FLAT = 10 * MB
"""How far apart the least and the most memory of all sizes may be, from `FLAT_FROM` on: a smaller table fills no buffer."""

FLAT_FROM = 20 * MB

SPOOL = 1024 * 1024 * 1024
"""The default of `spool_limit`. A target that loads more slowly than its source exports lags behind, and may use it."""

TEN_ROWS, HELP, TINY, HELD = 0.6, 0.3, 0.015, 1.3


@dataclass(frozen=True)
class Verdict:
    """One bar: `figure` must not be above `most`. `unit` is that of both; none for ratios.

    What is not `meant` is shown and not judged: the bar is for larger tables.
    """

    what: str
    most: float
    figure: Spread
    unit: str = ""
    meant: bool = True

    @property
    def missed(self) -> bool:
        """Whether the median is above the bar."""
        return self.meant and self.figure.median > self.most

    @property
    def word(self) -> str:
        if not self.meant:
            return "small table"
        return "MISSED" if self.missed else "ok"


def verdicts(results: Results) -> list[Verdict]:
    """On all that has been measured; what has not, is not judged."""
    judges = (_ratios, _memory, _small, _tiny, _held)
    return [verdict for judge in judges for verdict in judge(results)]


def _ratios(results: Results) -> Iterator[Verdict]:
    for key in results.tables(ratio.SECTION):
        kind = key.removesuffix(KEYED)
        bars = [(CHUNKED, RAW_TEXT, _CHUNKED_BY_TEXT[kind])] if kind in _CHUNKED_BY_TEXT else []
        for name, base, most in (*bars, *_OF_ANY_TABLE):
            if found := results.ratios(ratio.SECTION, key, name, base):
                meant = results.of(ratio.SECTION, key)[0].heap >= LARGE
                yield Verdict(f"{key}: {name} / {base}", most, found, meant=meant)


def _memory(results: Results) -> Iterator[Verdict]:
    idle = results.about.get("idle_interpreter_rss", 0)
    runs = results.of(growth.GROWTH, name=CHUNKED)
    if not runs:
        return
    beyond = Spread.of(float(run.peak_rss - idle) for run in runs)
    large = dict.fromkeys(run.table for run in runs if run.heap >= FLAT_FROM)
    medians = [results.spread(growth.GROWTH, key, CHUNKED, "peak_rss") for key in large]
    grown = [each.median for each in medians if each]
    if beyond:
        yield Verdict("memory beyond an idle interpreter, psql included, of any size", MEMORY, _worst(beyond), "B")
    if len(grown) > 1:
        apart = max(grown) - min(grown)
        yield Verdict("memory, most of all sizes from 20 MB less the least", FLAT, Spread(apart, apart, apart), "B")
    if temp := Spread.of(float(run.temp_bytes or 0) for run in runs):
        yield Verdict("temporary disk of a chunked copy, of any size", SPOOL, _worst(temp), "B")


def _small(results: Results) -> Iterator[Verdict]:
    for name, most in (("10 rows", TEN_ROWS), ("--help", HELP)):
        if found := results.spread("tiny", "start", name):
            yield Verdict(f"safecopy {name}, whole process", most, found, "s")


def _tiny(results: Results) -> Iterator[Verdict]:
    one = results.spread("tiny", "tables", "safecopy, 1 table")
    many = results.of("tiny", "tables", "safecopy, all tables")
    if one and (found := Spread.of((run.wall - one.median) / (run.tables - 1) for run in many)):
        yield Verdict("each of many tiny tables in one call, beyond the first", TINY, found, "s")


def _held(results: Results) -> Iterator[Verdict]:
    for key in results.tables("release"):
        bases = {run.round: run.wall for run in results.of("release", key, "export to /dev/null, binary")}
        held = [run for run in results.of("release", key, CHUNKED) if run.round in bases and run.held]
        if found := Spread.of((run.held or 0) / bases[run.round] for run in held):
            meant = held[0].heap >= LARGE
            yield Verdict(f"{key}: source's transaction, target 5 x slower / bare export", HELD, found, meant=meant)


def _worst(spread: Spread) -> Spread:
    """Where no run may be above the bar, the worst is judged."""
    return Spread(spread.least, spread.most, spread.most)

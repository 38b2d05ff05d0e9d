"""Sections `growth` and `parallel`: one table in several sizes, and in several streams."""

from __future__ import annotations

from benchmarks import data
from benchmarks.contestant import CHUNKED, RAW_BINARY, WARM_UP, Contestant, ours, raw
from benchmarks.rounds import alternate
from benchmarks.session import Session

GROWTH, PARALLEL = "growth", "parallel"
TABLE = "korean"
"""Wide rows: a table of 5 GB is quickly made of them."""

STREAMS = (1, 2, 4)
MOST_ROUNDS = 3
"""Of the growth: five gigabytes take their time, and what is looked for is a line, not a hundredth."""


def growth(session: Session) -> None:
    """Time and memory of a chunked copy, and the time of a raw pipe beside it, by the size of the table."""
    contestants = (raw(RAW_BINARY, "binary"), ours(CHUNKED, "--transfer", "chunked"))
    for size in session.options.growth:
        _measure(session, GROWTH, size, contestants, rounds=min(MOST_ROUNDS, session.options.rounds))


def parallel(session: Session) -> None:
    """Time of a chunked copy, by the number of its streams."""
    contestants = tuple(ours(streams(n), "--transfer", "chunked", "--parallel", str(n)) for n in STREAMS)
    _measure(session, PARALLEL, session.options.size, contestants, rounds=session.options.rounds)


def streams(number: int) -> str:
    """What a copy with so many of them is called."""
    return f"parallel {number}"


def of_size(size: int) -> str:
    """What a table of so many bytes is called in the results."""
    return f"{size / 1e6:.0f} MB"


def _measure(session: Session, section: str, size: int, contestants: tuple[Contestant, ...], *, rounds: int) -> None:
    session.progress.say(f"{section}: making {TABLE}, {of_size(size)}")
    made = data.make(session.pair, TABLE, size)
    runs = alternate(
        session.pair,
        made,
        contestants,
        section=section,
        rounds=rounds,
        progress=session.progress,
        warm_up=(CHUNKED, streams(1), *WARM_UP),
        table=of_size(size),
    )
    session.results.put(runs)
    session.save()
    data.drop(session.pair, made)

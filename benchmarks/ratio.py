"""Section `ratios`: ours in each mode beside what people write, on each table."""

from __future__ import annotations

from benchmarks import data
from benchmarks.contestant import MAIN, RAW_BINARY, RAW_TEXT, WARM_UP
from benchmarks.rounds import alternate
from benchmarks.session import Session

SECTION = "ratios"


def run(session: Session) -> None:
    """Replaces what was measured of these tables before."""
    options = session.options
    chosen = [
        each
        for each in MAIN
        if options.contestants is None or each.name in {*options.contestants, RAW_TEXT, RAW_BINARY}
    ]
    for key in options.tables:
        session.progress.say(f"{SECTION}: making {key}, {options.size / 1e6:.0f} MB")
        made = data.make(session.pair, key, options.size)
        runs = alternate(
            session.pair,
            made,
            chosen,
            section=SECTION,
            rounds=options.rounds,
            progress=session.progress,
            warm_up=WARM_UP,
        )
        session.results.put(runs)
        session.save()
        data.drop(session.pair, made)

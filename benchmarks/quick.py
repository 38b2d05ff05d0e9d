"""A guard against regressions, in a minute: a chunked copy beside a raw binary pipe.

    python -m benchmarks.quick [--size 600MB] [--seconds 60]

As many pairs as fit into the time, three at least. Ends with 1 when the median of the pairs' ratios is above 1.3. The
table is made by the server, and so small that what a copy costs once, whatever its size, is a good part of it; that is
why more is allowed than for a gigabyte.
"""

from __future__ import annotations

import sys
import time

import click

from airflow_provider_safecopy.demo.servers import installations
from benchmarks import data, pair
from benchmarks.contestant import CHUNKED, RAW_BINARY, Contestant, ours, raw
from benchmarks.options import size as size_of
from benchmarks.results import Spread
from benchmarks.rounds import once

MOST = 1.3
_LEAST_ROUNDS = 3
_TABLE = "like-lineitem"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--size", type=size_of, default="600MB", metavar="BYTES", show_default=True, help="Heap of the table.")
@click.option("--seconds", type=click.IntRange(1), default=60, show_default=True, help="Time for all of it.")
def main(*, size: int, seconds: int) -> None:
    """Measure, print, judge."""
    deadline = time.monotonic() + seconds
    with pair.running(installations()[0]) as servers:
        made = data.make(servers, _TABLE, size)
        click.echo(f"{made.rows:,} rows, {made.heap / 1e6:.0f} MB, PostgreSQL {servers.installation.major}")
        ratios = paired(servers, made, deadline)
    found = Spread.of(ratios)
    if found is None:
        raise click.ClickException("nothing was measured")
    word = "ok" if found.median <= MOST else "MISSED"
    click.echo(
        f"{CHUNKED} / {RAW_BINARY}: {found.median:.2f} ({found.least:.2f} – {found.most:.2f}), at most {MOST}: {word}"
    )
    sys.exit(int(found.median > MOST))


def paired(servers: pair.Pair, made: data.Data, deadline: float) -> list[float]:
    """Ratios of the wall times, after one pair that is not counted; no pair is begun that would not be done in time."""
    ratios: list[float] = []
    base, own = raw(RAW_BINARY, "binary"), ours(CHUNKED, "--transfer", "chunked")
    _walls(servers, made, base, own)
    longest = 0.0
    while len(ratios) < _LEAST_ROUNDS or time.monotonic() + longest < deadline:
        began = time.monotonic()
        theirs, mine = _walls(servers, made, base, own)
        ratios.append(mine / theirs)
        longest = max(longest, time.monotonic() - began)
        click.echo(f"{RAW_BINARY} {theirs:.2f} s, {CHUNKED} {mine:.2f} s: {ratios[-1]:.2f}")
    return ratios


def _walls(servers: pair.Pair, made: data.Data, *contestants: Contestant) -> list[float]:
    return [once(servers, made, each).wall for each in contestants]


if __name__ == "__main__":
    main()

"""Side by side: this copy, the pipes people write, and the tools they would pick instead.

    python -m benchmarks.bench [--only ratios,growth,...] [--size 1GB] [--rounds 5] [--into DIRECTORY]

Prints tables, and keeps them under ``benchmarks/results/`` with all single runs, plots and what they were measured on.
Several calls with the same ``--into`` fill one set of results. Ends with 1 when a bar is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from airflow_provider_safecopy.demo.servers import installations
from benchmarks import bar, growth, keep, machine, pair, peers, ratio, release, sheet, tiny
from benchmarks.data import TABLES
from benchmarks.measure import FailedError
from benchmarks.options import Size, Words
from benchmarks.options import size as size_of
from benchmarks.progress import Progress
from benchmarks.results import Results
from benchmarks.rounds import WrongError
from benchmarks.session import Options, Session
from benchmarks.shelf import brief

SECTIONS: dict[str, Callable[[Session], None]] = {
    "ratios": ratio.run,
    "parallel": growth.parallel,
    "growth": growth.growth,
    "tiny": tiny.run,
    "release": release.run,
    "peers": peers.run,
}
_MAIN_TABLES = "lineitem,korean,integers,types"
_GROWTH = "10MB,50MB,200MB,1GB,5GB"
STOPPED = "stopped:"
WIDTH = 150
"""The tables do not fit into less."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    type=Words(*SECTIONS),
    default=",".join(SECTIONS),
    show_default=True,
    help="Sections, in this order.",
)
@click.option(
    "--tables", type=Words(*TABLES), default=_MAIN_TABLES, show_default=True, help="Tables of the section ratios."
)
@click.option("--size", type=Size(), default="1GB", show_default=True, help="Heap of a table.")
@click.option(
    "--peer-size", type=Size(), default="100MB", show_default=True, help="Heap of the table other tools copy."
)
@click.option(
    "--growth", "growths", type=Words(), default=_GROWTH, show_default=True, help="Sizes of the section growth."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds that are counted.")
@click.option(
    "--contestants",
    type=Words(between=";"),
    help="Some contestants of the section ratios, by name, separated by semicolons.  [default: all]",
)
@click.option("--peers", type=Words(), help="Some of the other tools.  [default: all]")
@click.option(
    "--peer-cache",
    type=click.Path(path_type=Path),
    default=".venv-bench-peers",
    show_default=True,
    help="Where other tools are installed.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="Directory of the results.  [default: date and commit under benchmarks/results]",
)
@click.option("--show", is_flag=True, help="Measure nothing: show, and draw anew, what is in --into.")
def main(
    *,
    only: tuple[str, ...],
    tables: tuple[str, ...],
    size: int,
    peer_size: int,
    growths: tuple[str, ...],
    rounds: int,
    contestants: tuple[str, ...] | None,
    peers: tuple[str, ...] | None,
    peer_cache: Path,
    into: Path | None,
    show: bool,
) -> None:
    """Measure, print, keep, judge."""
    options = Options(
        size=size,
        peer_size=peer_size,
        rounds=rounds,
        tables=tables,
        growth=tuple(size_of(each) for each in growths),
        contestants=contestants,
        peers=peers,
        peer_cache=peer_cache,
    )
    directory = into or keep.new_directory()
    results = Results.load(directory)
    if not show:
        measure(options, only, results, directory)
    keep.everything(results, directory)
    console = Console(width=max(WIDTH, Console().width))
    for each in sheet.sheets(results):
        each.show(console)
    told(results, console)
    console.print(f"Results: {directory}")
    stopped = any(note.startswith(STOPPED) for notes in results.notes.values() for note in notes)
    sys.exit(1 if stopped or any(verdict.missed for verdict in bar.verdicts(results)) else 0)


def measure(options: Options, sections: tuple[str, ...], results: Results, directory: Path) -> None:
    """One section after the other, each saved as soon as it is there."""
    progress = Progress()
    with pair.running(installations()[0]) as servers:
        results.about.update(machine.about(servers))
        session = Session(options, servers, results, progress, directory)
        for name in sections:
            results.notes.pop(name, None)
            try:
                SECTIONS[name](session)
            except (FailedError, WrongError) as error:
                # The others are measured all the same, and the call ends with 1.
                session.note(name, f"{STOPPED} {brief(str(error))}")
                progress.say(str(error))
            session.save()


def told(results: Results, console: Console) -> None:
    """What has to be said beside the figures."""
    for section, notes in results.notes.items():
        for note in notes:
            console.print(f"{section}: {note}")


if __name__ == "__main__":
    main()

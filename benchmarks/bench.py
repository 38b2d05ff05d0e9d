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
from benchmarks import bar, estimate, growth, keep, machine, pair, peers, ratio, release, sheet, tiny
from benchmarks.contestant import MAIN
from benchmarks.data import TABLES
from benchmarks.measure import FailedError
from benchmarks.options import size as size_of
from benchmarks.options import sizes, some_of
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
_MAIN_TABLES = "lineitem,korean,integers,types,lineitem-keyed,korean-keyed,integers-keyed,types-keyed"
_GROWTH = "10MB,20MB,50MB,200MB,1GB,5GB"
_DIRECTORY = click.Path(path_type=Path)
STOPPED = "stopped:"
"""Of a section that could not be measured to its end; the call fails then."""

WIDTH = 150
"""The tables do not fit into less."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--only", type=some_of(*SECTIONS), default=",".join(SECTIONS), metavar="LIST", help="Sections, in this order."
)
@click.option(
    "--tables", type=some_of(*TABLES), default=_MAIN_TABLES, metavar="LIST", help="Tables of the section ratios."
)
@click.option("--size", type=size_of, default="1GB", metavar="BYTES", help="Heap of a table.")
@click.option(
    "--peer-size", type=size_of, default="100MB", metavar="BYTES", help="Heap of the table that slow tools copy."
)
@click.option("--growth", "growths", type=sizes, default=_GROWTH, metavar="LIST", help="Sizes of the section growth.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Rounds that are counted.")
@click.option(
    "--contestants",
    type=some_of(*(each.name for each in MAIN), between=";"),
    metavar="LIST",
    help="Some contestants of the section ratios, separated by semicolons; the raw pipes always run.  [default: all]",
)
@click.option(
    "--peers", "tools", type=some_of(*peers.NAMES), metavar="LIST", help="Some of the other tools.  [default: all]"
)
@click.option("--peer-cache", type=_DIRECTORY, default=".venv-bench-peers", help="Where other tools are installed.")
@click.option(
    "--into", type=_DIRECTORY, help="Directory of the results.  [default: date and commit, under benchmarks/results]"
)
@click.option("--show", is_flag=True, help="Measure nothing: show, and draw anew, what is in --into.")
def main(
    *,
    only: tuple[str, ...],
    tables: tuple[str, ...],
    size: int,
    peer_size: int,
    growths: tuple[int, ...],
    rounds: int,
    contestants: tuple[str, ...] | None,
    tools: tuple[str, ...] | None,
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
        growth=growths,
        contestants=contestants,
        peers=tools,
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
    progress.say(f"about {estimate.seconds(options, sections) / 60:.0f} minutes in all, on two cores")
    with pair.running(installations()[0]) as servers:
        versions = results.about.get("versions", {})
        results.about = machine.about(servers)
        results.about["versions"] = {**versions, **results.about["versions"]}
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

"""The plots: throughput, memory over time, growth, streams, other tools. PNG and SVG, with labels in English.

matplotlib is not needed for anything else; where it is not installed, nothing is drawn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import growth, ratio
from benchmarks.contestant import CHUNKED, IN_MEMORY, RAW_BINARY, RAW_TEXT, SEQUENTIAL, SEQUENTIAL_TWO
from benchmarks.results import Results, Run

_COLOURS = {
    RAW_TEXT: "#9e9e9e",
    RAW_BINARY: "#616161",
    IN_MEMORY: "#c98b8b",
    CHUNKED: "#0b6e4f",
    SEQUENTIAL: "#6bb392",
    SEQUENTIAL_TWO: "#3f8f6c",
    "chunked, text": "#9cc5a1",
    "parallel 2": "#084c61",
}
_OVER_TIME = (CHUNKED, SEQUENTIAL, RAW_TEXT, IN_MEMORY)


def draw(results: Results, directory: Path) -> list[str]:
    """The names of what was drawn: that of which there are runs."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib as mpl

    mpl.use("agg")
    # The same figures give the same file, and text in an SVG stays text.
    mpl.rcParams.update({"svg.hashsalt": "safecopy", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False, "axes.axisbelow": True, "axes.grid.axis": "y"})
    drawn: dict[str, Callable[[Results], Any]] = {
        "throughput": throughput,
        "memory": memory,
        "growth": growing,
        "parallel": streams,
        "peers": peers,
    }
    made = {name: figure for name, make in drawn.items() if (figure := make(results)) is not None}
    for name, figure in made.items():
        figure.savefig(directory / f"{name}.png", dpi=110)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    return list(made)


def throughput(results: Results) -> Any:
    """Megabytes of heap a second, by table and contestant."""
    tables = results.tables(ratio.SECTION)
    if not tables:
        return None
    names = results.names(ratio.SECTION)
    figure, axes = _figure("Throughput, medians", "MB of table per second", width=8)
    width = 0.85 / len(names)
    for number, name in enumerate(names):
        speeds = [_speed(results, table, name) for table in tables]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(tables))]
        axes.bar(places, speeds, width, label=name, color=_COLOURS.get(name))
    axes.set_xticks(range(len(tables)), tables)
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    return figure


def memory(results: Results) -> Any:
    """Resident memory of all client processes, over the time of one run."""
    tables = results.tables(ratio.SECTION)
    if not tables:
        return None
    figure, axes = _figure(f"Memory of all client processes, {tables[0]}", "MB (logarithmic)")
    for name in _OVER_TIME:
        for run in results.of(ratio.SECTION, tables[0], name):
            if run.memory:
                times, sizes = zip(*run.memory, strict=True)
                axes.plot(times, [size / 1e6 for size in sizes], label=name, color=_COLOURS.get(name))
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.legend(frameon=False)
    return figure


def growing(results: Results) -> Any:
    """Time and memory by the table's size."""
    runs = results.of(growth.GROWTH)
    if not runs:
        return None
    figure, (time, size) = _panels()
    for name in results.names(growth.GROWTH):
        own = sorted((run for run in runs if run.name == name), key=lambda run: run.heap)
        heaps = [run.heap / 1e6 for run in own]
        time.plot(heaps, [run.wall for run in own], "o", label=name, color=_COLOURS.get(name), markersize=4)
        size.plot(heaps, [run.peak_rss / 1e6 for run in own], "o", label=name, color=_COLOURS.get(name), markersize=4)
    time.set(title="Time by size of the table", ylabel="seconds", xscale="log", yscale="log", xlabel="MB of table")
    size.set(title="Peak memory of all client processes", ylabel="MB", xscale="log", xlabel="MB of table")
    size.set_ylim(bottom=0)
    time.legend(frameon=False)
    return figure


def streams(results: Results) -> Any:
    """Seconds by number of streams."""
    tables = results.tables(growth.PARALLEL)
    if not tables:
        return None
    figure, axes = _figure(f"Seconds by number of streams, table of {tables[-1]}", "seconds", width=4.5)
    for number in growth.STREAMS:
        walls = [run.wall for run in results.of(growth.PARALLEL, tables[-1], growth.streams(number))]
        axes.plot([number] * len(walls), walls, "o", color=_COLOURS[CHUNKED], markersize=4)
    axes.set_xticks(growth.STREAMS)
    axes.set_xlabel("streams")
    axes.set_ylim(bottom=0)
    return figure


def peers(results: Results) -> Any:
    """How many times as long as the raw text pipe other tools take."""
    tables = results.tables("peers")
    ratios: dict[str, float] = {}
    for table in tables:
        for name in results.names("peers", table):
            if found := results.ratios("peers", table, name, RAW_TEXT):
                # Ours and the pipes stand beside each group of tools; those on the first and largest table are shown.
                ratios.setdefault(name, found.median)
    if not ratios:
        return None
    figure, axes = _figure("Time / psql | psql, text (logarithmic)", "", height=0.6 + 0.32 * len(ratios))
    ordered = sorted(ratios.items(), key=lambda each: -each[1])
    names = [name for name, _ in ordered]
    bars = axes.barh(names, [each for _, each in ordered], color=[_COLOURS.get(name, "#b0bec5") for name in names])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xscale("log")
    axes.axvline(1, color="#616161", linewidth=0.8)
    axes.grid(visible=False)
    axes.margins(x=0.12)
    return figure


def _speed(results: Results, table: str, name: str) -> float:
    wall = results.spread(ratio.SECTION, table, name)
    runs: list[Run] = results.of(ratio.SECTION, table, name)
    return runs[0].heap / 1e6 / wall.median if wall else 0.0


def _figure(title: str, label: str, *, width: float = 7, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _panels() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes in panels:
        axes.grid(visible=True, alpha=0.3)
    return figure, panels

"""The figures as tables: for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks import bar
from benchmarks.contestant import RAW_BINARY, RAW_TEXT
from benchmarks.results import Results, Spread

Row = tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table; its first column is text, the others are figures."""

    title: str
    head: Row
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """With its title above it."""
        ruler = ["---", *["---:"] * (len(self.head) - 1)]
        lines = [line(row) for row in (self.head, *self.rows)]
        return "\n".join([f"### {self.title}", "", lines[0], "| " + " | ".join(ruler) + " |", *lines[1:], ""])

    def show(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left")
        for number, each in enumerate(self.head):
            table.add_column(each, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*row, style="bold red" if row[-1] == "MISSED" else None)
        console.print(table)


def line(row: Row) -> str:
    """A row in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def sheets(results: Results) -> list[Sheet]:
    """All there is to show, in the order of the sections."""
    made = [*_sections(results), judged(results)]
    return [sheet for sheet in made if sheet.rows]


def judged(results: Results) -> Sheet:
    """The bars, and whether they are kept."""
    rows = [
        (each.what, f"≤ {_told(each.most, each.unit)}", _spread(each.figure, each.unit), each.word)
        for each in bar.verdicts(results)
    ]
    return Sheet("What must hold", ("", "bar", "median (min – max)", "verdict"), tuple(rows))


def _sections(results: Results) -> Iterator[Sheet]:
    for section in dict.fromkeys(run.section for run in results.runs):
        for table in results.tables(section):
            yield _compared(results, section, table)


def _compared(results: Results, section: str, table: str) -> Sheet:
    """All contestants of a table, with their ratios to the raw pipes where there are any."""
    names = results.names(section, table)
    bases = [base for base in (RAW_TEXT, RAW_BINARY) if base in names]
    first = results.of(section, table)[0]
    rows = [_row(results, section, table, name, bases) for name in names]
    size = f"; {first.heap / 1e6:,.0f} MB, {first.rows:,} rows" if first.heap else ""
    rounds = len({run.round for run in results.of(section, table)})
    return Sheet(f"{section}: {table}{size}; {rounds} rounds", _head(bases), tuple(rows))


def _head(bases: list[str]) -> Row:
    ratios = [words for base in bases for words in (f"wall / {base}", "CPU")]
    return ("", "wall s", *ratios, "CPU s", "of clients", "peak MB", "temp MB")


def _row(results: Results, section: str, table: str, name: str, bases: list[str]) -> Row:
    def figure(which: str, show: Callable[[float], str]) -> str:
        found = results.spread(section, table, name, which)
        return show(found.median) if found and (found.most or which == "temp_bytes") else "–"

    wall = results.spread(section, table, name)
    cells = [name + _each(results.of(section, table, name)[0].tables, wall), _spread(wall, "s")]
    for base in bases:
        ratio, cpu = (results.ratios(section, table, name, base, which) for which in ("wall", "machine_cpu"))
        cells += [_spread(ratio), f"{cpu.median:.2f}" if cpu else "–"]
    cells += [figure("machine_cpu", "{:.2f}".format), figure("client_cpu", "{:.2f}".format)]
    cells += [figure("peak_rss", _megabytes), figure("temp_bytes", _megabytes)]
    return tuple(cells)


def _each(tables: int, wall: Spread | None) -> str:
    """What each of many tables took, beside the name of who copied them."""
    return f" ({tables} tables, {1000 * wall.median / tables:.1f} ms each)" if tables > 1 and wall else ""


def _spread(spread: Spread | None, unit: str = "") -> str:
    """The median, and from where to where."""
    if spread is None:
        return "–"
    least, median, most = (_told(each, unit) for each in (spread.least, spread.median, spread.most))
    return f"{median} ({least} – {most})" if spread.least != spread.most else median


def _told(figure: float, unit: str) -> str:
    match unit:
        case "B":
            return f"{figure / 1e6:.1f} MB"
        case "s" if figure < 0.1:
            return f"{figure:.4f}"
        case _:
            return f"{figure:.2f}"


def _megabytes(figure: float) -> str:
    return f"{figure / 1e6:.1f}"

"""The demo, shown: lines with the time they came at, and on a terminal a bar for each table being copied."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from airflow_provider_safecopy.cli.encoding import is_terminal
from airflow_provider_safecopy.display import align_columns, escape

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from airflow_provider_safecopy.demo.scenes import Scene
    from airflow_provider_safecopy.demo.tables import Position
    from airflow_provider_safecopy.demo.tour import Comparison


class Lines:
    """Lines alone: for a file, a pipe, a log. `verbose` shows all that Airflow says."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line with its time, now."""
        self._write(f"{time.monotonic() - self._began:5.1f} s  {escape(text)}")

    def detail(self, text: str) -> None:
        """A line for those who want all."""
        if self._verbose:
            self._write(f"         {escape(text)}")

    def move(self, positions: Mapping[str, Position]) -> None:
        """Lines say what has been done; bars say how far it is."""

    def close(self) -> None:
        """Leave the lines to other writers."""

    def _write(self, line: str) -> None:
        # That of the moment: while there are bars, rich writes lines above them.
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class Bars(Lines):
    """The same lines above a bar for each table."""

    def __init__(self, rich: RichProgress, *, verbose: bool) -> None:
        super().__init__(verbose=verbose)
        self._rich = rich
        self._tasks: dict[str, TaskID] = {}
        rich.add_task("at work", total=None, told="")

    def move(self, positions: Mapping[str, Position]) -> None:
        """Move the bars. One whose COPY has ended is full."""
        for table, position in positions.items():
            if table not in self._tasks:
                self._tasks[table] = self._rich.add_task(table, total=position.rows, told="")
            told = f"{position.exported:,} exported, {position.imported:,} staged"
            self._rich.update(self._tasks[table], completed=position.imported, told=told)
        for table in self._tasks.keys() - positions.keys():
            total = self._rich.tasks[self._tasks[table]].total
            self._rich.update(self._tasks[table], completed=total, told=f"{total:,.0f} staged")

    def close(self) -> None:
        """Take the bars away: the lines have told it all."""
        self._rich.stop()


def open_screen(*, verbose: bool) -> AbstractContextManager[Lines]:
    """Return the screen that shows the demo on stdout."""
    return _open_bars(verbose=verbose) if is_terminal(sys.stdout) else nullcontext(Lines(verbose=verbose))


@contextmanager
def _open_bars(*, verbose: bool) -> Iterator[Lines]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    console = Console(file=sys.stdout, highlight=False, markup=False)
    columns = (TextColumn("         {task.description}"), BarColumn(24), TextColumn("{task.fields[told]}"))
    with RichProgress(*columns, console=console, transient=True) as rich:
        yield Bars(rich, verbose=verbose)


def comparison(compared: Sequence[Comparison]) -> str:
    """Each table on both sides, as lines of a table."""
    head = ("table", "before", "source", "target", "the same rows")
    body = [
        (
            escape(each.table),
            f"{each.before:,}",
            f"{each.source.rows:,}",
            f"{each.target.rows:,}",
            "yes" if each.same else "NO",
        )
        for each in compared
    ]
    return "\n".join(align_columns([head, *body], right=frozenset({1, 2, 3})))


def sights(scenes: Sequence[Scene]) -> str:
    """Return what each scene showed, and whether it had to be so, as lines of a table."""
    head = ("scene", "looked at", "seen", "as it must be")
    body = [
        (
            scene.title if check is scene.checks[0] else "",
            check.what,
            escape(check.seen),
            "yes" if check.holds else "NO",
        )
        for scene in scenes
        for check in scene.checks
    ]
    return "\n".join(align_columns([head, *body]))

"""Progress of a copy: a bar for each stage on a terminal, a line now and then elsewhere.

The reader of the progress may go away, as by a closed pipe, without the copy failing for it: then nothing
more is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, TextIO

from airflow_provider_safecopy.cli.encoding import is_terminal
from airflow_provider_safecopy.display import escape, format_bytes, format_seconds
from airflow_provider_safecopy.spec import Progress, Stage

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from airflow_provider_safecopy.pipeline.outcome import BatchProgress

LINE_SECONDS = 5.0
"""How often a stage that goes on says so where there is no terminal."""

_MOVING: frozenset[Stage] = frozenset({"export", "import"})

WAITING_SECONDS = 60.0
"""Seconds between lines about a wait where there is no terminal."""

Listener = Callable[[Progress], None]
Teller = Callable[[str], None]
Counter = Callable[["BatchProgress"], None]
Clock = Callable[[], float]


def open_progress(stream: TextIO, *, quiet: bool) -> AbstractContextManager[Listener]:
    """Return the display of progress on `stream`: nothing if `quiet`, bars on a terminal, lines elsewhere."""
    if quiet:
        return nullcontext(lambda _: None)
    return _open_bars(stream) if is_terminal(stream) else nullcontext(Lines(stream))


def open_count(stream: TextIO, *, quiet: bool) -> AbstractContextManager[Counter]:
    """Return the display of how many tables are done on `stream`."""
    if quiet:
        return nullcontext(lambda _: None)
    return _open_counted_bar(stream) if is_terminal(stream) else nullcontext(Count(stream))


def open_line(stream: TextIO, *, quiet: bool) -> AbstractContextManager[Teller]:
    """Return the display of a wait on `stream`: the first text stays, those after it take turns."""
    if quiet:
        return nullcontext(lambda _: None)
    return _open_status(stream) if is_terminal(stream) else nullcontext(SparseLines(stream))


class SparseLines:
    """The first line, and then one every `WAITING_SECONDS`."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._told: float | None = None

    def __call__(self, text: str) -> None:
        now = self._clock()
        if self._told is None or now - self._told >= WAITING_SECONDS:
            self._told = now
            # A reader that has gone is no reason to stop waiting.
            with suppress(OSError):
                self._stream.write(f"{escape(text)}\n")
                self._stream.flush()


class Lines:
    """A line every `LINE_SECONDS` while a stage goes on. That one begins or ends is in the log."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream: TextIO | None = stream
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        begun = self._begun.setdefault(progress.stage, now)
        if now - self._told.setdefault(progress.stage, begun) >= LINE_SECONDS:
            self._told[progress.stage] = now
            self._write(f"{progress.stage}: {figures(progress, now - begun) or f'{now - begun:.0f} s'}\n")

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError:
            self._stream = None


class Count:
    """A line every `LINE_SECONDS`: how many tables are done, and which one it is at."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._told = clock()

    def __call__(self, progress: BatchProgress) -> None:
        now = self._clock()
        if now - self._told >= LINE_SECONDS:
            self._told = now
            with suppress(OSError):
                self._stream.write(f"{format_count(progress)}, at {escape(progress.at)}\n")
                self._stream.flush()


class Bars:
    """A bar for each stage. Those of the transfer are full once what follows it has begun."""

    def __init__(self, rich: RichProgress, clock: Clock = time.monotonic) -> None:
        self._rich = rich
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._tasks: dict[Stage, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self._tasks:
            self._begin(progress)
        done, expected = measure(progress)
        told = figures(progress, self._clock() - self._begun[progress.stage])
        self._rich.update(self._tasks[progress.stage], completed=done, total=expected, told=told)

    def finish(self) -> None:
        """Fill every bar: what they show has ended."""
        for task in self._tasks.values():
            self._rich.update(task, completed=1, total=1)

    def _begin(self, progress: Progress) -> None:
        if progress.stage not in _MOVING:
            self.finish()
            self._sum_up(progress)
        self._begun[progress.stage] = self._clock()
        self._tasks[progress.stage] = self._rich.add_task(progress.stage, total=None, told="")

    def _sum_up(self, progress: Progress) -> None:
        """Fill the bars of the transfer: what follows it knows all that was transferred."""
        for stage in _MOVING & self._tasks.keys():
            told = figures(Progress(stage, progress.bytes, progress.rows), 0)
            self._rich.update(self._tasks[stage], told=told)


def figures(progress: Progress, seconds: float) -> str:
    """Return what is known of a stage that has gone on for `seconds`: rows, bytes, bytes per second, time left."""
    parts = [] if progress.rows is None else [f"{progress.rows:,} rows"]
    if progress.stage in _MOVING and progress.bytes:
        parts.append(format_bytes(progress.bytes))
        if seconds > 0:
            parts.append(f"{format_bytes(progress.bytes / seconds)}/s")
    done, expected = measure(progress)
    if done and expected is not None and seconds > 1:
        parts.append(f"about {format_seconds(seconds * (expected - done) / done)} left")
    return ", ".join(parts)


def format_count(progress: BatchProgress) -> str:
    """Return how many tables are done, in words."""
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done} of {progress.total} tables{failed}"


def measure(progress: Progress) -> tuple[int, int | None]:
    """Return what is done, of how much: in rows where both are known, else in bytes.

    Verify and publish are single statements: their progress is not known. What an export is expected
    to bring comes from statistics; one that goes past it has no known end.
    """
    if progress.stage not in _MOVING:
        return 0, None
    done, expected = progress.bytes, progress.expected_bytes
    if progress.rows is not None and progress.expected_rows is not None:
        done, expected = progress.rows, progress.expected_rows
    return done, None if expected is None or done > expected else expected


@contextmanager
def _open_bars(stream: TextIO) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress

    console = Console(file=stream, highlight=False, markup=False)
    spinner = SpinnerColumn("dots" if console.encoding.startswith("utf") else "line", finished_text=" ")
    columns = (spinner, TextColumn("{task.description:<8}"), BarColumn(24), TextColumn("{task.fields[told]}"))
    with RichProgress(*columns, console=console) as rich:
        bars = Bars(rich)
        yield bars
        bars.finish()


@contextmanager
def _open_counted_bar(stream: TextIO) -> Iterator[Counter]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (BarColumn(24), TextColumn("{task.fields[told]}"))
    with RichProgress(*columns, console=Console(file=stream, highlight=False, markup=False)) as rich:
        task = rich.add_task("tables", total=None, told="")

        def count(progress: BatchProgress) -> None:
            told = f"{format_count(progress)}  {escape(progress.at)}"
            rich.update(task, completed=progress.done, total=progress.total, told=told)

        yield count


@contextmanager
def _open_status(stream: TextIO) -> Iterator[Teller]:
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False)
    told = False
    with console.status("", spinner="dots" if console.encoding.startswith("utf") else "line") as status:

        def tell(text: str) -> None:
            nonlocal told
            if told:
                status.update(escape(text))
            else:
                console.print(escape(text))
                told = True

        yield tell

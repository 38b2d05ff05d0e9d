"""Progress: what is told, how often, and to whom."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from airflow_provider_safecopy.cli.progress import LINE_SECONDS, Bars, Lines, figures, measure, open_progress
from airflow_provider_safecopy.spec import MiB, Progress


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_few_seconds_for_each_stage() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    for tenths in range(121):
        clock.now = 1000 + tenths / 10
        lines(Progress("export", bytes=tenths * MiB, expected_bytes=240 * MiB))
        if tenths >= 100:
            lines(Progress("import", bytes=(tenths - 100) * MiB))
    clock.now += LINE_SECONDS
    lines(Progress("publish", rows=1234))
    clock.now += LINE_SECONDS
    lines(Progress("publish", rows=1234))
    assert stream.getvalue().splitlines() == [
        "export: 50.0 MiB, 10.0 MiB/s, about 19 s left",
        "export: 100.0 MiB, 10.0 MiB/s, about 14 s left",
        "publish: 1,234 rows",
    ]


def test_a_stage_of_which_nothing_is_known_says_how_long_it_takes() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    lines(Progress("verify"))
    clock.now += 7
    lines(Progress("verify"))
    assert stream.getvalue() == "verify: 7 s\n"


def test_a_reader_who_has_gone_is_told_no_more() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    clock = Clock()
    stream = os.fdopen(writing, "w")
    lines = Lines(stream, clock)
    for _ in range(3):
        lines(Progress("export", bytes=1))
        clock.now += LINE_SECONDS
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize(
    "progress, seconds, told",
    [
        (Progress("export"), 0, ""),
        (Progress("export", bytes=MiB), 0, "1.0 MiB"),
        (Progress("export", bytes=MiB), 2, "1.0 MiB, 512.0 KiB/s"),
        (Progress("import", MiB, 500, 1000, 5 * MiB), 4, "500 rows, 1.0 MiB, 256.0 KiB/s, about 4 s left"),
        (Progress("import", MiB, None, 1000, 4 * MiB), 2, "1.0 MiB, 512.0 KiB/s, about 6 s left"),
        (Progress("import", 6 * MiB, None, None, 5 * MiB), 2, "6.0 MiB, 3.0 MiB/s"),
        (Progress("verify", MiB, 10, 10, MiB), 2, "10 rows"),
    ],
)
def test_figures(progress: Progress, seconds: float, told: str) -> None:
    assert figures(progress, seconds) == told


def test_an_end_that_has_been_passed_is_no_end() -> None:
    assert measure(Progress("export", bytes=9, expected_bytes=10)) == (9, 10)
    assert measure(Progress("export", bytes=11, expected_bytes=10)) == (11, None)
    assert measure(Progress("publish", 1, 1, 1, 1)) == (0, None)


def test_bars_of_the_transfer_are_full_and_summed_up_when_it_is_over() -> None:
    clock = Clock()
    rich = RichProgress(TextColumn("{task.fields[told]}"), BarColumn(), console=Console(file=io.StringIO()))
    bars = Bars(rich, clock)
    bars(Progress("export", bytes=MiB, expected_bytes=4 * MiB))
    bars(Progress("import", bytes=MiB, expected_bytes=4 * MiB))
    clock.now += 1
    bars(Progress("export", bytes=3 * MiB, expected_bytes=4 * MiB))
    export, load = rich.tasks
    assert (export.completed, export.total, export.fields["told"]) == (3 * MiB, 4 * MiB, "3.0 MiB, 3.0 MiB/s")
    assert not export.finished
    assert not load.finished
    bars(Progress("verify", 4 * MiB, 77, 77, 4 * MiB))
    assert export.finished
    assert load.finished
    assert export.fields["told"] == load.fields["told"] == "77 rows, 4.0 MiB"
    verify = rich.tasks[2]
    assert (verify.total, verify.fields["told"]) == (None, "77 rows")
    bars.finish()
    assert verify.finished


def test_quiet_shows_nothing() -> None:
    stream = io.StringIO()
    with open_progress(stream, quiet=True) as progress:
        progress(Progress("export", bytes=1))
    assert stream.getvalue() == ""

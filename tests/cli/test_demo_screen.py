"""How the demo is shown."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from airflow_provider_safecopy.cli.demo_screen import Bars, Lines, comparison, open_screen, sights
from airflow_provider_safecopy.demo.scenes import Check, Scene
from airflow_provider_safecopy.demo.tables import Content, Position
from airflow_provider_safecopy.demo.tour import Comparison


def test_lines_have_the_time_they_came_at(capsys: pytest.CaptureFixture[str]) -> None:
    with open_screen(verbose=False) as screen:
        screen.say("고객_복사: export started \x1b[2J")
        screen.detail("Airflow says this and that")
        screen.move({"고객": Position(5, 3, 10)})
    assert re.fullmatch(r" +0\.\d s  고객_복사: export started \\x1b\[2J\n", capsys.readouterr().out)


def test_verbose_shows_all_that_airflow_says(capsys: pytest.CaptureFixture[str]) -> None:
    Lines(verbose=True).detail("DagRun finished")
    assert capsys.readouterr().out.endswith("DagRun finished\n")


def test_a_bar_follows_the_rows_that_have_reached_the_target() -> None:
    rich = RichProgress(console=Console(file=io.StringIO()))
    bars = Bars(rich, verbose=False)
    bars.move({"고객": Position(exported=50, imported=30, rows=100)})
    task = rich.tasks[-1]
    assert (task.description, task.completed, task.total) == ("고객", 30, 100)
    assert task.fields["told"] == "50 exported, 30 staged"
    bars.move({"주문_내역": Position(exported=1, imported=0, rows=7)})
    assert task.finished
    assert task.fields["told"] == "100 staged"


def test_the_comparison_names_what_differs() -> None:
    same, other = Content(10, "a"), Content(10, "b")
    text = comparison([Comparison("고객", 1, same, same), Comparison("주문_내역", 2, same, other)])
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["yes", "NO"]
    assert text.splitlines()[1].split() == ["고객", "1", "10", "10", "yes"]


def test_the_scenes_are_told_with_what_was_seen_in_them() -> None:
    first = Scene("a killed run taken over", (Check("exit code", "0", "0"), Check("target", "제1판\x1b", "제2판")))
    text = sights([first, Scene("a paused run fenced out", (Check("exit code", "4", "4"),))])
    told = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    assert told == [
        ["scene", "looked at", "seen", "as it must be"],
        ["a killed run taken over", "exit code", "0", "yes"],
        ["target", "제1판\\x1b", "NO"],
        ["a paused run fenced out", "exit code", "4", "yes"],
    ]

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from benchmarks import keep, plot
from benchmarks.contestant import CHUNKED, MAIN, RAW_TEXT
from benchmarks.results import Results, Run


@pytest.fixture
def results() -> Results:
    def made(section: str, table: str, name: str, number: int, heap: int = 10**9) -> Run:
        return Run(
            section, table, name, number, 1.0 + number, 0.5, 1.5, 40_000_000, 10, heap, memory=((0.05, 10), (0.1, 20))
        )

    runs = [made("ratios", "korean", each.name, number) for number in (1, 2) for each in MAIN]
    runs += [made("growth", f"{size} MB", CHUNKED, 1, size * 10**6) for size in (10, 1000)]
    runs += [made("parallel", "1000 MB", f"parallel {number}", 1) for number in (1, 2, 4)]
    runs += [made("peers", "like-lineitem", name, 1) for name in (RAW_TEXT, CHUNKED, "sling")]
    about = {"commit": "abc", "machine": {"cores": 2}, "versions": {"psql": "18.4", "a | b": "1"}}
    return Results(runs, about, {"peers": ["dlt did not install: no such version"]})


def test_the_page_tells_figures_machine_and_notes(results: Results) -> None:
    page = keep.page(results)
    for words in (
        "commit abc",
        "| cores | 2 |",
        "| psql | 18.4 |",
        "- peers: dlt did not install",
        "### ratios: korean; 1,000 MB",
    ):
        assert words in page
    (row,) = [
        line
        for line in page.splitlines()
        if line.startswith("| psql \\| psql, text |") and "2.50 (2.00 – 3.00)" in line
    ]
    assert row.count(" | ") > 5


def test_every_table_of_the_page_has_as_many_cells_in_each_row(results: Results) -> None:
    widths: list[set[int]] = [set()]
    for line in keep.page(results).splitlines():
        if line.startswith("|"):
            widths[-1].add(line.replace("\\|", "").count("|"))
        else:
            widths.append(set())
    assert [width for width in widths if len(width) > 1] == []


def test_what_is_kept_in_the_repository_is_the_latest_too(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "RESULTS", tmp_path)
    monkeypatch.setattr(keep, "LATEST", tmp_path / "latest")
    keep.everything(results, tmp_path / "2026-01-01-abc")
    assert Results.load(tmp_path / "latest") == Results.load(tmp_path / "2026-01-01-abc") == results
    shutil.rmtree(tmp_path / "latest")
    keep.everything(results, tmp_path / "elsewhere" / "here")
    assert not (tmp_path / "latest").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is installed for make bench alone"
)
def test_plots_are_drawn_small(results: Results, tmp_path: Path) -> None:
    drawn = plot.draw(results, tmp_path)
    assert drawn == ["throughput", "memory", "growth", "parallel", "peers"]
    assert all(0 < path.stat().st_size < 200_000 for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2 * len(drawn)

"""Where results are kept, and what is made of them there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, plot, sheet
from benchmarks.results import Results

RESULTS = Path(__file__).with_name("results")
LATEST = RESULTS / "latest"


def new_directory() -> Path:
    """Named for the day and the commit."""
    return RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{machine.commit().removesuffix('+')}"


def everything(results: Results, directory: Path) -> None:
    """JSON, Markdown, plots; and all of it again as the latest, when it is one of those kept in the repository."""
    results.save(directory)
    (directory / "results.md").write_text(page(results), "utf-8")
    plot.draw(results, directory)
    if directory.resolve().parent == RESULTS.resolve() and directory.name != LATEST.name:
        shutil.rmtree(LATEST, ignore_errors=True)
        shutil.copytree(directory, LATEST)


def page(results: Results) -> str:
    """All tables, and what they were measured on."""
    about = results.about
    machine_, versions = about.get("machine", {}), about.get("versions", {})
    lines = ["# Benchmark results", ""]
    lines += [f"Measured {about.get('measured', '?')} at commit {about.get('commit', '?')}.", ""]
    lines += ["| | |", "|---|---|", *_about({**machine_, **versions}), ""]
    notes = [f"- {section}: {note}" for section, notes in results.notes.items() for note in notes]
    lines += [*notes, "", *(each.markdown() for each in sheet.sheets(results))]
    return "\n".join(lines).rstrip() + "\n"


def _about(known: Mapping[str, object]) -> list[str]:
    """Rows of a table; some names are those of pipes."""
    return [sheet.line((name, str(told))) for name, told in known.items()]

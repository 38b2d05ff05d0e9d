"""Contestants in turn: A B C, A B C, ..., so that what befalls the machine befalls all alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contestant import Contestant, Task
from benchmarks.data import Data
from benchmarks.measure import FailedError, Measured, measure
from benchmarks.pair import Pair, environment
from benchmarks.progress import Progress
from benchmarks.results import Run


class WrongError(Exception):
    """A contestant did not do what is measured: the target does not have the source's number of rows."""


def alternate(
    pair: Pair,
    data: Data,
    contestants: Sequence[Contestant],
    *,
    section: str,
    rounds: int,
    progress: Progress,
    warm_up: Sequence[str] = (),
    table: str | None = None,
) -> list[Run]:
    """So many rounds of all contestants; those of the warm-up run once before, uncounted.

    Raises `FailedError` when one fails, and `WrongError` when one did not bring all rows.
    """
    found: list[Run] = []
    for contestant in contestants:
        if contestant.name in warm_up:
            once(pair, data, contestant)
    for number in range(1, rounds + 1):
        began = time.monotonic()
        for contestant in contestants:
            measured = once(pair, data, contestant)
            known = contestant.said(measured.said)
            found.append(kept(measured, data, known, section, name=contestant.name, table=table, number=number))
        progress.round(found[-len(contestants) :], rounds=rounds, seconds=time.monotonic() - began)
    return found


def once(pair: Pair, data: Data, contestant: Contestant, task: Task | None = None) -> Measured:
    """One run, and that it did the job; before, outside of what is measured, all is written to the disk."""
    pair.settle(data.quoted)
    task = task or Task(*pair.conninfos(), data.name, pair.psql)
    try:
        measured = measure(contestant.pipelines(task), environment())
    except FailedError as error:
        raise FailedError(f"{contestant.name}, {data.name}: {error}") from error
    if (came := pair.count(contestant.lands(task))) != data.rows:
        raise WrongError(f"{contestant.name}: {came} of {data.rows} rows of {data.name}")
    return measured


def kept(
    measured: Measured,
    data: Data,
    known: Mapping[str, Any],
    section: str,
    *,
    name: str,
    number: int,
    table: str | None = None,
) -> Run:
    """What is kept of a run; the table is called by its kind, if not otherwise."""
    figures: dict[str, Any] = {
        "wall": measured.wall,
        "client_cpu": measured.client_cpu,
        "machine_cpu": measured.machine_cpu,
        "peak_rss": measured.peak_rss,
        "memory": measured.memory,
        "rows": data.rows,
        "heap": data.heap,
    }
    return Run(section=section, table=table or data.key, name=name, round=number, **figures | dict(known))

"""The options that say how rows get into the target table, and what must hold before they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from airflow_provider_safecopy.cli import parameter
from airflow_provider_safecopy.cli.declare import choice, in_order
from airflow_provider_safecopy.transfer.model import Drift, Missing, Publish, WriteMode

_Command = Callable[..., Any]


def writing(function: _Command) -> _Command:
    """How rows are written, what is guarded, what the table may become, what follows."""
    return in_order(*_mode(), *_guards(), *_table())(function)


def _mode() -> tuple[Callable[[_Command], _Command], ...]:
    return (
        choice("write-mode", WriteMode, "Replace all rows, append a slice, or write by key: see below."),
        choice("publish", Publish, "How replacing rows get into the target table."),
        click.option(
            "--key",
            "key_columns",
            metavar="LIST",
            multiple=True,
            callback=parameter.texts,
            help="Target columns that name a row: a,b.  [default: the primary key]",
        ),
        _text("cursor-column", "NAME", "incremental: source column that grows with every change."),
        _text("lookback", "N|INTERVAL", "incremental: read again so far back, such as '2 days' or 1000."),
        _text("interval-start", "VALUE", "incremental: from here, instead of the watermark."),
        _text("interval-end", "VALUE", "incremental: up to here, itself not included."),
        _text("slice", "TEXT", "append: what this is; the same slice is never appended twice."),
        choice("missing", Missing, "upsert: rows the source has no more are kept, deleted or marked."),
        _text("missing-column", "NAME", "Target column that marks them: a timestamp or a boolean."),
    )


def _guards() -> tuple[Callable[[_Command], _Command], ...]:
    return (
        click.option("--allow-empty", is_flag=True, help="Publish even if the source has no row."),
        click.option(
            "--min-rows",
            metavar="N",
            type=click.IntRange(min=0),
            help="Refuse fewer rows from the source.  [default: 1 for replace, else 0]",
        ),
        click.option(
            "--max-shrink",
            metavar="PCT",
            type=click.FloatRange(0, 100),
            help="Refuse to lose more than so many percent of the target's rows.  [default: no limit]",
        ),
        click.option(
            "--max-null-share",
            metavar="NAME=PCT",
            multiple=True,
            callback=parameter.shares,
            help="Refuse a greater share of NULLs in this target column.  May be repeated.",
        ),
    )


def _table() -> tuple[Callable[[_Command], _Command], ...]:
    return (
        choice("drift", Drift, "Columns only the source has: refuse, leave out, or add to the target."),
        click.option("--create-target", is_flag=True, help="Make the target table if there is none."),
        click.option("--refresh-views", is_flag=True, help="Refresh dependent materialized views afterwards."),
        click.option(
            "--end-blockers-after",
            metavar="TIME",
            callback=parameter.seconds,
            help="End sessions that hold up the publish for so long.  [default: never]",
        ),
        click.option(
            "--swap-patience",
            metavar="TIME",
            callback=parameter.seconds,
            default="30.0",
            help="With auto: replace a swap that waits this long for readers by another way.  [default: 30 s]",
        ),
    )


def _text(name: str, metavar: str, purpose: str) -> Callable[[_Command], _Command]:
    return click.option(f"--{name}", metavar=metavar, callback=parameter.text, help=purpose)

"""Telling Airflow what came of a copy, beyond the task's result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, Context

if TYPE_CHECKING:
    from airflow_provider_safecopy.pipeline.outcome import BatchReport
    from airflow_provider_safecopy.transfer.report import CopyReport


# The key of a task's result; Airflow 3's own name for it can only be imported with its models.
_RESULT = "return_value"


def push_result(context: Context, report: CopyReport | BatchReport) -> None:
    """In place of the result, which a task that skips itself has none of."""
    context["ti"].xcom_push(key=_RESULT, value=report.as_dict())


def update_assets(context: Context, outlets: Iterable[Any], report: CopyReport) -> None:
    """The report's essence, in the event of each asset among the outlets."""
    _update_events(context, outlets, _summarize(report))


def update_assets_of_all(context: Context, outlets: Iterable[Any], done: BatchReport) -> None:
    """The same of a batch: the essence of each of its tables."""
    _update_events(context, outlets, {"tables": [_summarize(report) for report in done.tables]})


def _summarize(report: CopyReport) -> dict[str, Any]:
    return {word: getattr(report, word) for word in ("target", "token", "rows", "bytes", "digest")}


def _update_events(context: Context, outlets: Iterable[Any], essence: dict[str, Any]) -> None:
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra["safecopy"] = essence

"""Telling Airflow what came of a copy, beyond the task's result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.providers.common.compat.sdk import Asset, Context

from airflow_provider_safecopy.transfer.report import CopyReport

# The key of a task's result; Airflow 3's own name for it can only be imported with its models.
_RESULT = "return_value"


def push_result(context: Context, report: CopyReport) -> None:
    """In place of the result, which a task that skips itself has none of."""
    context["ti"].xcom_push(key=_RESULT, value=report.as_dict())


def tell_assets(context: Context, outlets: Iterable[Any], report: CopyReport) -> None:
    """The report's essence, in the event of each asset among the outlets."""
    essence = {word: getattr(report, word) for word in ("target", "token", "rows", "bytes", "digest")}
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra["safecopy"] = essence

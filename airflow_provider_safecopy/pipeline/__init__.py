"""The straight line, and the only place where lock and transfer meet: `copy` does it, `plan` only says how.

`copy_tables` and `plan_tables` do the same for many tables in one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_safecopy.pipeline.copy_table import CHUNKED_SPOOL_BYTES, WINDOW_BYTES, copy, plan

if TYPE_CHECKING:
    from airflow_provider_safecopy.pipeline.batch import copy_tables, plan_tables

__all__ = ["CHUNKED_SPOOL_BYTES", "WINDOW_BYTES", "copy", "copy_tables", "plan", "plan_tables"]


def __getattr__(name: str) -> Any:
    # What a copy of one table does not need, its start need not wait for.
    if name not in {"copy_tables", "plan_tables"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from airflow_provider_safecopy.pipeline import batch

    return getattr(batch, name)

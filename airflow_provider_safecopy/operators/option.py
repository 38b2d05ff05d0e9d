"""The operator's options, by when they are known: when the DAG is parsed, or only when the task runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_safecopy.transfer.timeouts import Timeouts

LATER = "later"
"""Stands for a text that is not known yet."""

STAND_INS: Mapping[str, Any] = {
    "source_table": LATER,
    "source_sql": LATER,
    "target_table": LATER,
    "columns": None,
    "where": None,
    "key_columns": None,
    "interval_start": LATER,
    "interval_end": LATER,
    "slice": LATER,
    "lock": None,
    "spool_dir": None,
}
"""Options a template or another task's result may settle later, and what stands in for each until then."""

SETTLED = (
    *(
        "write_mode",
        "cursor_column",
        "lookback",
        "missing",
        "missing_column",
        "transfer",
        "format",
        "publish",
        "verify",
    ),
    *("drift", "create_target", "min_rows", "max_shrink", "max_null_share", "allow_empty", "refresh_views"),
    *(
        "end_blockers_after",
        "swap_patience",
        "parallel",
        "rate_limit",
        "spool_limit",
        "stale_after",
        "launch_interval",
        "show_rows",
    ),
)
"""Options that are known when the DAG is parsed."""

_TIMEOUTS = ("connect", "export", "import", "stall", "verify", "publish", "lock_wait")


def timeouts_of(given: Mapping[str, Any]) -> Timeouts:
    """The timeouts among the operator's parameters. Raises `ConfigError`."""
    return Timeouts(*(given[f"{name}_timeout"] for name in _TIMEOUTS))

"""Copy PostgreSQL tables between databases, safely: the target holds the old rows or the new ones.

The names below are the public face, imported when they are first used. Importing this package imports nothing heavy.
For Airflow there are `operators.safecopy.SafeCopyOperator` and `hooks.safecopy.SafeCopyHook`; the command is `safecopy`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.errors import (
        AbortedError,
        ConfigError,
        FencedOutError,
        LockBusyError,
        LockLostError,
        LockStoreError,
        PlanError,
        PublishUnknownError,
        Refusal,
        SafeCopyError,
        StageError,
        StageTimeoutError,
        StalledError,
        VerifyError,
    )
    from airflow_provider_safecopy.lock.living_lock import LivingLock
    from airflow_provider_safecopy.lock.model import Promise
    from airflow_provider_safecopy.pipeline.batch import copy_tables, plan_tables
    from airflow_provider_safecopy.pipeline.copy_table import copy, plan
    from airflow_provider_safecopy.pipeline.outcome import BatchReport
    from airflow_provider_safecopy.planning.plan import CopyPlan
    from airflow_provider_safecopy.postgres.endpoint import Endpoint
    from airflow_provider_safecopy.report import CopyReport
    from airflow_provider_safecopy.spec import CopySpec, Progress, Timeouts

__all__ = [
    "AbortSwitch",
    "AbortedError",
    "BatchReport",
    "ConfigError",
    "CopyPlan",
    "CopyReport",
    "CopySpec",
    "Endpoint",
    "FencedOutError",
    "LivingLock",
    "LockBusyError",
    "LockLostError",
    "LockStoreError",
    "PlanError",
    "Progress",
    "Promise",
    "PublishUnknownError",
    "Refusal",
    "SafeCopyError",
    "StageError",
    "StageTimeoutError",
    "StalledError",
    "Timeouts",
    "VerifyError",
    "copy",
    "copy_tables",
    "plan",
    "plan_tables",
]

__version__ = "0.1.0"

# Where a name of the public face lives; every other name in `__all__` is an error.
_HOMES = {
    "AbortSwitch": "abort",
    "BatchReport": "pipeline.outcome",
    "CopyPlan": "planning.plan",
    "CopyReport": "report",
    "CopySpec": "spec",
    "Endpoint": "postgres.endpoint",
    "LivingLock": "lock.living_lock",
    "Progress": "spec",
    "Promise": "lock.model",
    "Timeouts": "spec",
    "copy": "pipeline.copy_table",
    "copy_tables": "pipeline.batch",
    "plan": "pipeline.copy_table",
    "plan_tables": "pipeline.batch",
}


# Hidden from type checkers, which would otherwise believe in any name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _MovedModules:
    """Find modules of this package by their former names. Python asks last, for what it finds nowhere else."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return the spec of `name` at its new place, None if it is no former name."""
        if not name.startswith(f"{__name__}."):
            return None
        # The table of former names is read only by those who still use one.
        from airflow_provider_safecopy import moved

        return moved.find_spec(name)


sys.meta_path.append(_MovedModules)

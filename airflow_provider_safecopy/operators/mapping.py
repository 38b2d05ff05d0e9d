"""Refuse mapped tasks whose instances would overwrite each other, when the DAG is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.operators.template import is_plain
from airflow_provider_safecopy.operators.told import translate_errors


def require_distinct_targets(given: Mapping[str, Any], *, mapped: frozenset[str] = frozenset()) -> None:
    """Raise `ConfigError` if every mapped instance would replace all rows of the same table.

    `mapped` are the arguments that differ between the instances, `given` the others. A template or the result of another
    task may differ as well: that is checked when the tasks run.
    """
    targets = {"target_table", "tables", "write_mode", "target_conn_id"}
    replaces = given.get("write_mode", "replace") == "replace"
    if mapped & targets or not replaces or given.get("dry_run") or given.get("target_table") is None:
        return
    if all(is_plain(given.get(each)) for each in ("target_table", "target_conn_id")):
        from airflow_provider_safecopy.transfer.sibling import HINT

        raise ConfigError(f"each mapped instance would replace all rows of {given['target_table']}", hint=HINT)


def check_expansion(partial: Any) -> Any:
    """Make Airflow's `partial` check the arguments of its `expand`."""

    class _Checking(type(partial)):  # type: ignore[misc]  # Airflow 2 and 3 have it in different places
        __slots__ = ()

        def expand(self, **mapped: Any) -> Any:
            with translate_errors():
                require_distinct_targets(self.kwargs, mapped=frozenset(mapped))
            return super().expand(**mapped)

    partial._expand_called = True  # noqa: SLF001 -- else it warns that it was never expanded
    return _Checking(operator_class=partial.operator_class, kwargs=partial.kwargs, params=partial.params)

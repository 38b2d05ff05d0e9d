"""Relations between options: which go together, and which contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_safecopy.errors import ConfigError

if TYPE_CHECKING:
    from airflow_provider_safecopy.transfer.spec import CopySpec

_ONLY_IN = {
    "publish": ("replace",),
    "key_columns": ("replace", "upsert", "incremental"),
    "lookback": ("incremental",),
    "interval_start": ("incremental",),
    "interval_end": ("incremental",),
    "append_key": ("append", "incremental"),
    "max_shrink": ("replace", "upsert"),
    "missing": ("upsert",),
}
"""The write modes in which an option has a meaning."""


def require_consistent(spec: CopySpec) -> None:
    """Raise `ConfigError` where options that make sense alone make none together."""
    if (spec.source_table is None) == (spec.source_sql is None):
        raise ConfigError("give either source_table or source_sql, and not both")
    _check_mode(spec)
    _check_interval(spec)
    if spec.max_shrink is not None and spec.write_mode == "upsert" and spec.missing == "keep":
        raise ConfigError("max_shrink means nothing with missing=keep, which removes no row")
    if (spec.missing == "mark") != (spec.missing_column is not None):
        raise ConfigError("missing=mark and missing_column go together")


def _check_mode(spec: CopySpec) -> None:
    defaults = {each.name: each.default for each in spec.options()}
    mode = spec.write_mode
    for name, modes in _ONLY_IN.items():
        if getattr(spec, name) != defaults[name] and mode not in modes:
            raise ConfigError(f"{name} means nothing with write_mode={mode}, only with {' or '.join(modes)}")
    if (mode == "incremental") != (spec.cursor_column is not None):
        raise ConfigError("write_mode=incremental and cursor_column go together")
    if mode == "append" and spec.append_key is None:
        raise ConfigError("write_mode=append needs append_key", hint="name what is appended, so that a retry is known")


def _check_interval(spec: CopySpec) -> None:
    if (spec.interval_start is None) != (spec.interval_end is None):
        raise ConfigError("interval_start and interval_end go together")
    if spec.interval_start is not None and spec.lookback is not None:
        raise ConfigError("lookback counts back from the watermark, which an interval does not use")

"""What is asked for: one copy, as a frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.transfer.demand import (
    as_mapping,
    as_names,
    demand_choice,
    demand_column_names,
    demand_columns,
    demand_count,
    demand_kind,
    demand_path,
    demand_percent,
    demand_positive,
    demand_seconds,
    demand_short,
    demand_text,
)
from airflow_provider_safecopy.transfer.model import (
    Drift,
    Format,
    Missing,
    Publish,
    Transfer,
    Verify,
    WriteMode,
)
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.timeouts import Timeouts

# What people end a statement with, and a part of one may not.
_END = re.compile(r"[;\s]+$")
_CHOICES: Mapping[str, Any] = {
    "transfer": Transfer,
    "format": Format,
    "write_mode": WriteMode,
    "publish": Publish,
    "missing": Missing,
    "drift": Drift,
    "verify": Verify,
}
_TEXTS = ("source_sql", "where", "lock", "cursor_column", "lookback", "interval_start", "interval_end", "slice")
_POSITIVE = ("spool_limit", "rate_limit")
_SECONDS = ("stale_after", "launch_interval", "end_blockers_after", "swap_patience")


@dataclass(frozen=True)
class CopySpec:
    """One copy, as asked for: everything but where the two databases are.

    Exactly one of `source_table` and `source_sql` is given. `columns` is None (all, by name), a
    sequence of names, or a mapping of source column to target column; their order is the order of
    transfer. `where` filters the source's rows. `source_sql` and `where` run on the source, read only,
    under ``search_path = pg_catalog``: names in them must carry their schema.

    `write_mode`: ``replace`` all rows; ``append`` a `slice`, once; ``upsert`` by `key_columns` (of the target; None
    means its primary key); ``incremental`` the same, but only rows whose `cursor_column` (of the source) lies beyond
    the watermark, less `lookback` (a number, or an interval such as ``2 days``), or from `interval_start` up to but
    not including `interval_end`. `missing` says what an upsert of everything does with rows the source no longer
    has: ``keep``, ``delete``, or ``mark`` their `missing_column` (a timestamp or a boolean of the target).

    `min_rows`: fewer from the source are refused; None means 1 where rows may be lost (``replace``, or `missing` is
    not ``keep``), else 0. `max_shrink`: losing more
    than so many percent of the target's rows is refused, whether they are replaced, deleted or marked. `max_null_share`: percent of NULLs, by target column.
    `drift`: what becomes of columns only the source has. `create_target` makes a table that is missing.
    `end_blockers_after`: seconds after which sessions that hold up the publish are ended; None means never.
    `swap_patience`: seconds after which a swap that ``publish="auto"`` chose, and that waits for readers, gives way
    to a way that does not.
    `refresh_views`: refresh dependent materialized views after the publish.

    `parallel`: how many streams read and load one table at once, of which a swap has one; ``auto`` is two for large tables where the machine
    has the processors, two for a sequential copy and four for a chunked one. `rate_limit` bounds the bytes a second
    that are read from the source, all streams together.

    `spool_limit` bounds temporary disk in bytes; None means 1 GiB for chunked and no bound for
    sequential, which needs the whole table on disk. `lock` is the name the run holds beside the target
    table's own; None means the table's alone. `stale_after` is how many seconds without progress the run may
    keep its locks; None means ten minutes, or twice the stall timeout where that is longer. `launch_interval`
    opens connections to the source one after the other, so many seconds apart. `psql` is a path; None means
    `SAFECOPY_PSQL`, else the one that is found. `show_rows` lets errors show the rows they are about; by default they
    name the constraint, the column and the line.
    Raises `ConfigError` for anything that cannot be meant.
    """

    target_table: TableName
    source_table: TableName | None = None
    source_sql: str | None = None
    columns: Mapping[str, str] | None = None
    where: str | None = None
    write_mode: WriteMode = "replace"
    key_columns: tuple[str, ...] | None = None
    cursor_column: str | None = None
    lookback: str | None = None
    interval_start: str | None = None
    interval_end: str | None = None
    slice: str | None = None
    missing: Missing = "keep"
    missing_column: str | None = None
    transfer: Transfer = "auto"
    format: Format = "auto"
    publish: Publish = "auto"
    verify: Verify = "counts"
    drift: Drift = "fail"
    create_target: bool = False
    min_rows: int | None = None
    max_shrink: float | None = None
    max_null_share: Mapping[str, float] | None = None
    allow_empty: bool = False
    refresh_views: bool = False
    end_blockers_after: float | None = None
    swap_patience: float = 30.0
    timeouts: Timeouts = field(default_factory=Timeouts)
    parallel: int | Literal["auto"] = 1
    rate_limit: int | None = None
    spool_dir: str | None = None
    spool_limit: int | None = None
    lock: str | None = None
    stale_after: float | None = None
    launch_interval: float | None = None
    psql: str | None = None
    show_rows: bool = False

    def __post_init__(self) -> None:
        if (self.source_table is None) == (self.source_sql is None):
            raise ConfigError("give either source_table or source_sql, and not both")
        for option, allowed in _CHOICES.items():
            demand_choice(option, getattr(self, option), get_args(allowed))
        for option in _TEXTS:
            demand_text(option, getattr(self, option))
        demand_columns(self.columns)
        for option in _POSITIVE:
            if getattr(self, option) is not None:
                demand_positive(option, getattr(self, option))
        for option in _SECONDS:
            if getattr(self, option) is not None:
                demand_seconds(option, getattr(self, option))
        for option in ("spool_dir", "psql"):
            demand_path(option, getattr(self, option))
        for option in ("allow_empty", "create_target", "refresh_views", "show_rows"):
            demand_kind(option, getattr(self, option), bool)
        demand_kind("timeouts", self.timeouts, Timeouts)
        if self.parallel != "auto":
            demand_count("parallel", self.parallel)
            demand_positive("parallel", self.parallel)
        demand_column_names("missing_column", [] if self.missing_column is None else [self.missing_column])
        self._demand_guards()
        self._demand_mode()

    @property
    def patience(self) -> float:
        """Seconds without progress after which the run's locks may be taken."""
        return self.stale_after or max(600.0, 2 * self.timeouts.stall)

    @property
    def fewest_rows(self) -> int:
        """How many rows the source must give at least."""
        if self.min_rows is not None:
            return self.min_rows
        losing = self.write_mode == "replace" or self.missing != "keep"
        return 1 if losing and not self.allow_empty else 0

    @classmethod
    def of(
        cls,
        *,
        target_table: str | Sequence[str] | TableName,
        source_table: str | Sequence[str] | TableName | None = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        key_columns: Sequence[str] | None = None,
        **options: Any,
    ) -> CopySpec:
        """A spec from what people write: names as strings or pairs, columns as a list or a mapping."""
        for option in ("source_sql", "where"):
            if isinstance(options.get(option), str):
                options[option] = _END.sub("", options[option])
        if isinstance(options.get("lookback"), int | float):
            options["lookback"] = str(options["lookback"])
        known = {option.name for option in fields(cls)}
        if unknown := set(options) - known:
            raise ConfigError(
                f"unknown option: {', '.join(sorted(unknown))}", hint=f"known: {', '.join(sorted(known))}"
            )
        return cls(
            target_table=TableName.parse(target_table),
            source_table=None if source_table is None else TableName.parse(source_table),
            columns=as_mapping(columns),
            key_columns=as_names("key_columns", key_columns),
            **options,
        )

    def _demand_guards(self) -> None:
        if self.min_rows is not None:
            demand_count("min_rows", self.min_rows)
            if self.allow_empty and self.min_rows > 0:
                raise ConfigError("allow_empty contradicts min_rows", hint="give one of them")
        if self.max_shrink is not None:
            demand_percent("max_shrink", self.max_shrink)
            self._demand_only_in("max_shrink", "replace", "upsert")
            if self.write_mode == "upsert" and self.missing == "keep":
                raise ConfigError("max_shrink means nothing with missing=keep, which removes no row")
        if self.max_null_share is not None:
            demand_kind("max_null_share", self.max_null_share, Mapping)
        for column, share in (self.max_null_share or {}).items():
            demand_column_names("max_null_share", [column])
            demand_percent(f"max_null_share of {column}", share)

    def _demand_mode(self) -> None:
        mode = self.write_mode
        if self.publish != "auto":
            self._demand_only_in("publish", "replace")
        if self.key_columns is not None:
            if not self.key_columns:
                raise ConfigError("key_columns is empty", hint="leave it out to use the primary key")
            self._demand_only_in("key_columns", "replace", "upsert", "incremental")
        if (mode == "incremental") != (self.cursor_column is not None):
            raise ConfigError("write_mode=incremental and cursor_column go together")
        for option in ("lookback", "interval_start", "interval_end"):
            if getattr(self, option) is not None:
                self._demand_only_in(option, "incremental")
        if (self.interval_start is None) != (self.interval_end is None):
            raise ConfigError("interval_start and interval_end go together")
        if self.interval_start is not None and self.lookback is not None:
            raise ConfigError("lookback counts back from the watermark, which an interval does not use")
        if self.slice is not None:
            self._demand_only_in("slice", "append", "incremental")
            demand_short("slice", self.slice)
        if mode == "append" and self.slice is None:
            raise ConfigError("write_mode=append needs a slice", hint="name what is appended, so that a retry is known")
        if self.missing != "keep":
            self._demand_only_in("missing", "upsert")
        if (self.missing == "mark") != (self.missing_column is not None):
            raise ConfigError("missing=mark and missing_column go together")

    def _demand_only_in(self, option: str, *modes: str) -> None:
        if self.write_mode not in modes:
            raise ConfigError(
                f"{option} means nothing with write_mode={self.write_mode}, only with {' or '.join(modes)}"
            )

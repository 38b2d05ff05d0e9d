"""The request for one copy, as a frozen value, and the declarations of its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self

from airflow_provider_safecopy import kind
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.kind import TIMEOUT
from airflow_provider_safecopy.option import (
    LATER,
    Alias,
    Option,
    check_options,
    declare,
    nest_options,
    option,
    read_fields,
    read_options,
)
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.validation import require_kind

Transfer = Literal["auto", "sequential", "chunked"]
Format = Literal["auto", "text", "binary"]
WriteMode = Literal["replace", "append", "upsert", "incremental"]
Publish = Literal["auto", "swap", "delta", "delete_insert", "truncate_insert"]
Strategy = Literal["swap", "delta", "delete_insert", "truncate_insert", "create", "insert", "upsert"]
Missing = Literal["keep", "delete", "mark"]
Drift = Literal["fail", "ignore_extra", "add_columns"]
Verify = Literal["counts", "full"]
SizeClass = Literal["any", "small", "tiny"]
Status = Literal["published", "already_published", "planned", "skipped"]
Stage = Literal["connect", "plan", "export", "import", "verify", "prepare", "publish", "analyze", "refresh"]

MiB = 1024 * 1024


@dataclass(frozen=True)
class Progress:
    """The progress of a stage: `bytes` so far of about `expected_bytes`, None where it cannot be known."""

    stage: Stage
    bytes: int = 0
    rows: int | None = None
    expected_rows: int | None = None
    expected_bytes: int | None = None


_limit = partial(option, kind=TIMEOUT, group="Time limits", shared=True)


@dataclass(frozen=True)
class Timeouts:
    """The time limits of each part, in seconds, 24 days at most. All are always in force.

    A query that sorts before its first row needs a `stall` longer than that sort. A control session waits for one answer
    3 s longer than `stall`; for all answers of planning, verifying or publishing, as long as these may take.
    """

    connect: float = _limit(10, meaning="Longest time to open one session.", name="connect_timeout")
    export: float = _limit(4 * 3600, meaning="Longest time for the whole export.", name="export_timeout")
    # In Python, `import` is no name.
    import_: float = _limit(4 * 3600, meaning="Longest time for the whole import.", name="import_timeout")
    stall: float = _limit(
        300,
        meaning="Longest time without a single byte moving while it could. A query that sorts before its first row needs "
        "longer than that sort.",
        name="stall_timeout",
    )
    verify: float = _limit(
        3600, meaning="Longest time to compare both sides; also the limit for planning.", name="verify_timeout"
    )
    publish: float = _limit(
        3600, meaning="Longest time to write the rows, waiting for locks included.", name="publish_timeout"
    )
    # As in `postgres.session`, which this module cannot import: it would load the driver.
    lock_wait: float = _limit(
        180, meaning="Longest time to wait for a lock of another session, in any stage.", name="lock_wait_timeout"
    )

    def __post_init__(self) -> None:
        check_options(self)


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
        # A default was not asked for, so it contradicts nothing.
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


ROWS = "What is copied"
WRITING = "How rows are written"
GUARDS = "What is refused"
TABLE = "The target table"
TRANSFER = "How rows travel"
LOCKS = "Locks and connections"
DIAGNOSIS = "Errors and tools"


@dataclass(frozen=True, kw_only=True)
class CopySpec:
    """The request for one copy, without the addresses of the two databases.

    Each field declares an option: its meaning, and what the operator, the command and the reference page need to know.
    `docs/reference/options.md` shows all of them. Exactly one of `source_table` and `source_sql` is given.
    Raises `ConfigError` for values that make no sense, alone or together.
    """

    source_table: TableName | None = option(
        None,
        kind.TABLE,
        "Table, partitioned table, view, materialized view or foreign table to read.",
        group=ROWS,
        templated=True,
        stand_in=LATER,
    )
    source_sql: str | None = option(
        None,
        kind.SQL,
        "A query instead of `source_table`. Names in it carry their schema.",
        group=ROWS,
        in_airflow="Also the path of a .sql file, found as Airflow finds templates.",
        templated=True,
        stand_in=LATER,
    )
    target_table: TableName = field(
        metadata=declare(
            kind.TABLE,
            "Table to publish into. It must exist unless `create_target` is given.",
            group=ROWS,
            templated=True,
            stand_in=LATER,
        )
    )
    columns: Mapping[str, str] | None = option(
        None,
        kind.COLUMNS,
        "Columns to copy, or source columns with their target columns.",
        group=ROWS,
        default_text="all, by name",
        templated=True,
    )
    where: str | None = option(
        None,
        kind.CONDITION,
        "Copy only the rows this is true for. Names in it carry their schema.",
        group=ROWS,
        templated=True,
    )
    write_mode: WriteMode = option(
        "replace",
        kind.choice(WriteMode),
        "Replace all rows, append rows once under an `append_key`, write by key (upsert), or upsert what lies beyond the "
        "watermark of `cursor_column` (incremental).",
        group=WRITING,
    )
    publish: Publish = option(
        "auto", kind.choice(Publish), "How replacing rows get into the target table.", group=WRITING
    )
    key_columns: tuple[str, ...] | None = option(
        None,
        kind.NAMES,
        "Target columns that name a row.",
        group=WRITING,
        flag="--key",
        default_text="the primary key",
        templated=True,
    )
    cursor_column: str | None = option(
        None, kind.COLUMN, "incremental: source column that grows with every change.", group=WRITING
    )
    lookback: str | None = option(
        None,
        kind.DISTANCE,
        "incremental: read again so far back from the watermark, such as '2 days' or 1000.",
        group=WRITING,
    )
    interval_start: str | None = option(
        None,
        kind.VALUE,
        "incremental: from here, instead of the watermark.",
        group=WRITING,
        templated=True,
        stand_in=LATER,
    )
    interval_end: str | None = option(
        None, kind.VALUE, "incremental: up to here, itself not included.", group=WRITING, templated=True, stand_in=LATER
    )
    append_key: str | None = option(
        None,
        kind.KEY,
        "append: name of the rows that are appended; rows of the same name are never appended twice.",
        group=WRITING,
        in_airflow="By default this task in this DAG run.",
        templated=True,
        stand_in=LATER,
        aliases=(Alias("slice"),),
    )
    missing: Missing = option(
        "keep",
        kind.choice(Missing),
        "upsert: rows the source no longer has are kept, deleted or marked.",
        group=WRITING,
    )
    missing_column: str | None = option(
        None, kind.COLUMN, "Target column that marks them: a timestamp or a boolean.", group=WRITING
    )
    min_rows: int | None = option(
        None,
        kind.COUNT,
        "Refuse fewer rows from the source; 0 allows an empty source.",
        group=GUARDS,
        default_text="1 where rows may be lost, else 0",
        aliases=(Alias("allow_empty", kind.FLAG, {True: 0, False: None}, replacement="min_rows=0"),),
    )
    max_shrink: float | None = option(
        None,
        kind.PERCENT,
        "Refuse to lose more than this percentage of the target's rows.",
        group=GUARDS,
        default_text="no limit",
    )
    max_null_share: Mapping[str, float] | None = option(
        None, kind.SHARES, "Refuse a greater share of NULLs, in percent, in a target column.", group=GUARDS
    )
    drift: Drift = option(
        "fail", kind.choice(Drift), "Columns only the source has: refuse, leave out, or add to the target.", group=TABLE
    )
    create_target: bool = option(False, kind.FLAG, "Make the target table if there is none.", group=TABLE)
    refresh_views: bool = option(False, kind.FLAG, "Refresh dependent materialized views afterwards.", group=TABLE)
    terminate_blockers_after: float | None = option(
        None,
        kind.SECONDS,
        "Terminate sessions that hold up the publish for so long.",
        group=TABLE,
        default_text="never",
        aliases=(Alias("end_blockers_after"),),
    )
    swap_patience: float = option(
        30.0,
        kind.SECONDS,
        "With publish auto: replace a swap that waits this long for readers by another way.",
        group=TABLE,
    )
    transfer: Transfer = option(
        "auto",
        kind.choice(Transfer),
        "Finish the export before the import starts (sequential), or let them overlap (chunked).",
        group=TRANSFER,
    )
    format: Format = option(
        "auto", kind.choice(Format), "COPY format. auto: binary only where it is safe.", group=TRANSFER
    )
    verify: Verify = option(
        "counts",
        kind.choice(Verify),
        "Compare counts and digest, or the content of both sides as well (full).",
        group=TRANSFER,
    )
    timeouts: Timeouts = nest_options(Timeouts)
    parallel: int | Literal["auto"] = option(
        1,
        kind.STREAMS,
        "Streams that read and load one table at once. auto: several for large tables, by processors.",
        group=TRANSFER,
        shared=True,
    )
    rate_limit: int | None = option(
        None,
        kind.BYTES,
        "Most bytes a second to read from the source, all streams together.",
        group=TRANSFER,
        default_text="as fast as it goes",
        shared=True,
    )
    spool_dir: str | None = option(
        None,
        kind.PATH,
        "Directory for temporary files.",
        group=TRANSFER,
        default_text="TMPDIR",
        templated=True,
        shared=True,
    )
    spool_limit: int | None = option(
        None,
        kind.BYTES,
        "Most bytes of temporary disk to use.",
        group=TRANSFER,
        default_text="1GiB chunked, no bound sequential",
        shared=True,
    )
    lock: str | None = option(
        None,
        kind.NAME,
        "Lock to hold beside the target table's own.",
        group=LOCKS,
        in_airflow="By default that of the LivingLockGroup around the task, if there is one.",
        templated=True,
        shared=True,
    )
    stale_after: float | None = option(
        None,
        kind.SECONDS,
        "Without progress for so long, others may take the locks over.",
        group=LOCKS,
        default_text="10 min, or twice the `stall_timeout`",
        shared=True,
    )
    connect_interval: float | None = option(
        None,
        kind.SECONDS,
        "Open connections to the source one after the other, so far apart, however many copies run.",
        group=LOCKS,
        default_text="no gate",
        shared=True,
        aliases=(Alias("launch_interval"),),
    )
    show_rows: bool = option(
        False,
        kind.FLAG,
        "Let errors show the rows they are about, and not only constraint, column and line.",
        group=DIAGNOSIS,
        shared=True,
    )
    psql: str | None = option(
        None,
        kind.PATH,
        "Path of the psql to use.",
        group=DIAGNOSIS,
        default_text="SAFECOPY_PSQL, else the one found",
        shared=True,
    )

    def __post_init__(self) -> None:
        # Each option by itself first: the rules for several rely on sound values.
        check_options(self)
        require_kind("timeouts", self.timeouts, Timeouts)
        require_consistent(self)

    @property
    def patience(self) -> float:
        """Seconds without progress after which the run's locks may be taken."""
        # The stall watchdog must end a stuck copy before another run may take its lock.
        return self.stale_after or max(600.0, 2 * self.timeouts.stall)

    @property
    def fewest_rows(self) -> int:
        """The least number of rows that the source must give."""
        if self.min_rows is not None:
            return self.min_rows
        # An empty source is more often a mistake than a wish, and only these would lose rows by it.
        return 1 if self.write_mode == "replace" or self.missing != "keep" else 0

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """Return the options of a copy, each as it is declared."""
        return read_options(cls)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return a spec from what people write: names as strings or pairs, columns as a list or a mapping.

        Timeouts are given one by one, as ``stall_timeout=60``, or as `timeouts`. Raises `ConfigError`.
        """
        return cls(**read_fields(cls, values))

"""What is asked for, and what came of it: the frozen values at both ends of the line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from airflow_provider_safecopy.errors import ConfigError, LockBusyError
from airflow_provider_safecopy.transfer.name import TableName, is_text

Transfer = Literal["auto", "sequential", "chunked"]
Format = Literal["auto", "text", "binary"]
Publish = Literal["auto", "delete_insert", "truncate_insert"]
Verify = Literal["counts", "full"]
Status = Literal["published", "planned", "skipped"]
Stage = Literal["connect", "plan", "export", "import", "verify", "publish"]

MiB = 1024 * 1024

# What people end a statement with, and a part of one may not.
_END = re.compile(r"[;\s]+$")


@dataclass(frozen=True)
class Timeouts:
    """How long each part may take, in seconds. Every one is always in force; none can be switched off.

    `stall` is how long the export or the import may go without a single byte moving while it could.
    A query that sorts before its first row needs a `stall` longer than that sort.
    """

    connect: float = 10
    export: float = 4 * 3600
    import_: float = 4 * 3600
    stall: float = 300
    verify: float = 3600
    publish: float = 3600

    def __post_init__(self) -> None:
        for option in fields(self):
            _demand_positive(f"{option.name.rstrip('_')}_timeout", getattr(self, option.name))


@dataclass(frozen=True)
class CopySpec:
    """One copy, as asked for: everything but where the two databases are.

    Exactly one of `source_table` and `source_sql` is given. `columns` is None (all, by name), a
    sequence of names, or a mapping of source column to target column; their order is the order of
    transfer. `where` filters the source's rows. `source_sql` and `where` run on the source, read only,
    under ``search_path = pg_catalog``: names in them must carry their schema.

    `spool_limit` bounds temporary disk in bytes; None means 1 GiB for chunked and no bound for
    sequential, which needs the whole table on disk. `lock` is the name the run holds beside the target
    table's own; None means the table's alone. `stale_after` is how many seconds without progress the run may
    keep its locks; None means ten minutes, or twice the stall timeout where that is longer. `launch_interval`
    opens connections to the source one after the other, so many seconds apart. `psql` is a path; None means `SAFECOPY_PSQL`, else the one
    that is found.
    Raises `ConfigError` for anything that cannot be meant.
    """

    target_table: TableName
    source_table: TableName | None = None
    source_sql: str | None = None
    columns: Mapping[str, str] | None = None
    where: str | None = None
    transfer: Transfer = "auto"
    format: Format = "auto"
    publish: Publish = "auto"
    verify: Verify = "counts"
    timeouts: Timeouts = field(default_factory=Timeouts)
    spool_dir: str | None = None
    spool_limit: int | None = None
    lock: str | None = None
    stale_after: float | None = None
    launch_interval: float | None = None
    allow_empty: bool = False
    psql: str | None = None

    def __post_init__(self) -> None:
        if (self.source_table is None) == (self.source_sql is None):
            raise ConfigError("give either source_table or source_sql, and not both")
        for option, allowed in (("transfer", Transfer), ("format", Format), ("publish", Publish), ("verify", Verify)):
            _demand_choice(option, getattr(self, option), get_args(allowed))
        for option in ("source_sql", "where", "lock"):
            _demand_text(option, getattr(self, option))
        _demand_columns(self.columns)
        for option in ("spool_limit", "stale_after", "launch_interval"):
            if getattr(self, option) is not None:
                _demand_positive(option, getattr(self, option))
        # Not every word for false is false in Python, and a template may give any: demand the thing itself.
        for option, kind in (("allow_empty", bool), ("timeouts", Timeouts)):
            if not isinstance(getattr(self, option), kind):
                raise ConfigError(f"{option}={getattr(self, option)!r} must be {kind.__name__}")

    @property
    def patience(self) -> float:
        """Seconds without progress after which the run's locks may be taken."""
        return self.stale_after or max(600.0, 2 * self.timeouts.stall)

    @classmethod
    def of(
        cls,
        *,
        target_table: str | Sequence[str] | TableName,
        source_table: str | Sequence[str] | TableName | None = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        **options: Any,
    ) -> CopySpec:
        """A spec from what people write: names as strings or pairs, columns as a list or a mapping."""
        for option in ("source_sql", "where"):
            if isinstance(options.get(option), str):
                options[option] = _END.sub("", options[option])
        known = {option.name for option in fields(cls)}
        if unknown := set(options) - known:
            raise ConfigError(
                f"unknown option: {', '.join(sorted(unknown))}", hint=f"known: {', '.join(sorted(known))}"
            )
        return cls(
            target_table=TableName.parse(target_table),
            source_table=None if source_table is None else TableName.parse(source_table),
            columns=_as_mapping(columns),
            **options,
        )


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `bytes` so far of about `expected_bytes`, None where nobody can know."""

    stage: Stage
    bytes: int = 0
    rows: int | None = None
    expected_rows: int | None = None
    expected_bytes: int | None = None


@dataclass(frozen=True)
class StageReport:
    """What a stage did: seconds of wall time, psql's pid and exit code, the server's own row count."""

    stage: Stage
    seconds: float
    pid: int | None = None
    exit_code: int | None = None
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class CopyReport:
    """What came of a copy. `as_dict` is the object `--json` prints; `docs/report.md` has its schema.

    `bytes` and `digest` (xxh3, 128 bit, hex) are of the stream. `content_hash` is given for
    ``verify="full"``. `holder` is who had the lock, of a copy that was skipped. `spool_bytes` is the most temporary disk used at once, `peak_rss_bytes` the most
    memory this process ever used, the interpreter included.
    """

    status: Status
    lock: str
    source: str
    target: str
    format: Format
    transfer: Transfer
    publish: Publish
    token: int | None = None
    attempt: str | None = None
    rows: int | None = None
    previous_rows: int | None = None
    bytes: int | None = None
    digest: str | None = None
    content_hash: str | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    stages: tuple[StageReport, ...] = ()
    seconds: float = 0.0
    spool_bytes: int = 0
    peak_rss_bytes: int = 0
    holder: Mapping[str, Any] | None = None

    @classmethod
    def skipped(cls, spec: CopySpec, source: object, target: object, error: LockBusyError) -> CopyReport:
        """Of a copy that was skipped because its lock was busy; nothing was decided, nothing touched."""
        return cls(
            status="skipped",
            lock=error.lock,
            source=f"{source} {spec.source_table or 'a query'}",
            target=f"{target} {spec.target_table}",
            format=spec.format,
            transfer=spec.transfer,
            publish=spec.publish,
            reasons=(error.message,),
            holder=error.holder,
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        data = {option.name: getattr(self, option.name) for option in fields(self)}
        if self.holder is None:
            del data["holder"]
        data["stages"] = [vars(stage).copy() for stage in self.stages]
        return data | {"reasons": list(self.reasons), "warnings": list(self.warnings)}


def _as_mapping(columns: object) -> Mapping[str, str] | None:
    if columns is None or isinstance(columns, Mapping):
        return columns
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise ConfigError(f"columns must be a list or a mapping, not {columns!r}")
    _demand_column_names(columns)
    if len(set(columns)) != len(columns):
        raise ConfigError("columns names a column twice")
    return {column: column for column in columns}


def _demand_columns(columns: Mapping[str, str] | None) -> None:
    if columns is None:
        return
    if not columns:
        raise ConfigError("columns is empty", hint="leave it out to copy all columns")
    _demand_column_names((*columns, *columns.values()))
    if len(set(columns.values())) != len(columns):
        raise ConfigError("columns sends two source columns to one target column")


def _demand_column_names(names: Iterable[object]) -> None:
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name or not is_text(name):
            raise ConfigError(f"columns holds {name!r}, which is no column name")


def _demand_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option}={value!r} is not one of {', '.join(allowed)}")


def _demand_text(option: str, text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str) or not is_text(text):
        raise ConfigError(f"{option} must be a text, and spelled in its encoding")
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{option} may be neither blank nor hold a NUL")


def _demand_positive(option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{option}={value!r} must be a positive number")

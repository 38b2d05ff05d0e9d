"""Table lists: the tables of a batch as people list them, made into specs.

An entry is a name, which the table then has on both sides, or a mapping of options. Per-table options override shared
ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.option import with_current_names
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.spec import CopySpec

NAME_OPTIONS = ("source_table", "source_sql", "target_table")
"""The options by which an entry names its table. With a table list, they cannot be shared options."""


@dataclass(frozen=True)
class TableEntry:
    """One table as it is listed. `location` names its place for people: ``line 3 of 목록.txt``."""

    location: str
    options: Mapping[str, Any]


def read_table_options(kind: type[CopySpec] = CopySpec) -> frozenset[str]:
    """Return the names of the options that may be given for one table; the others hold for the whole call."""
    return frozenset(each.name for each in kind.options() if not each.shared)


def parse_entries(tables: object, location: str, kind: type[CopySpec] = CopySpec) -> tuple[TableEntry, ...]:
    """Return the entries of a list of names and mappings. Raises `ConfigError`.

    The third entry is at ``<location>[2]``.
    """
    if isinstance(tables, str | Mapping) or not isinstance(tables, Sequence):
        raise ConfigError(f"{location} must be a list of tables, not {type(tables).__name__}")
    return tuple(
        TableEntry(f"{location}[{at}]", _parse_options(entry, f"{location}[{at}]", kind))
        for at, entry in enumerate(tables)
    )


def build_specs(
    entries: Iterable[TableEntry], shared: Mapping[str, Any], kind: type[CopySpec] = CopySpec
) -> tuple[CopySpec, ...]:
    """Return a spec for each entry, with the options `shared` by all. Raises `ConfigError` that names the place."""
    if said := [name for name in NAME_OPTIONS if shared.get(name) is not None]:
        raise ConfigError(f"{said[0]} and a list of tables are two ways to say what is copied", hint="give one of them")
    current = with_current_names(shared, kind.options())
    common = {option: value for option, value in current.items() if option not in NAME_OPTIONS}
    specs: dict[TableName, tuple[str, CopySpec]] = {}
    for entry in entries:
        spec = _build_spec(entry, common, kind)
        # The second copy would replace the rows of the first.
        if (before := specs.get(spec.target_table)) is not None:
            told = f"{entry.location}: {spec.target_table} is the target of {before[0]} already"
            raise ConfigError(told, hint="name each target once")
        specs[spec.target_table] = entry.location, spec
    if not specs:
        raise ConfigError("the list of tables is empty", hint="name one at least")
    return tuple(spec for _, spec in specs.values())


def _parse_options(entry: object, location: str, kind: type[CopySpec]) -> Mapping[str, Any]:
    if isinstance(entry, str):
        return {"source_table": entry, "target_table": entry}
    if not isinstance(entry, Mapping):
        hint = 'write "영업.고객", or {"source_table": "영업.고객", "target_table": "분석.고객"}'
        raise ConfigError(f"{location} is neither a name nor a mapping of options: {entry!r}", hint=hint)
    try:
        entry = with_current_names(entry, kind.options())
    except ConfigError as error:
        raise ConfigError(f"{location}: {error.message}", hint=error.hint) from error
    known = read_table_options(kind)
    if unknown := [str(option) for option in entry if option not in known]:
        hint = f"of one table may be said: {', '.join(sorted(known))}; all else is said of all tables"
        raise ConfigError(f"{location}: {', '.join(unknown)} cannot be said of one table", hint=hint)
    if entry.get("target_table") is None:
        raise ConfigError(f"{location} names no target_table")
    return entry


def _build_spec(entry: TableEntry, common: Mapping[str, Any], kind: type[CopySpec]) -> CopySpec:
    try:
        return kind.of(**{**common, **entry.options})
    except ConfigError as error:
        raise ConfigError(f"{entry.location}: {error.message}", hint=error.hint) from error

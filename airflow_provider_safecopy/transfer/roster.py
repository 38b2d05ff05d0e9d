"""The roster: the tables of a batch as people list them, each with what is said of it alone, made into specs.

An entry is a name, which the table then has on both sides, or a mapping of options. What is said of one table goes before
what is said of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.option import with_current_names
from airflow_provider_safecopy.transfer.spec import CopySpec

NAMES = ("source_table", "source_sql", "target_table")
"""How an entry names its table. With a roster they cannot be said of all tables."""


@dataclass(frozen=True)
class Entry:
    """One table as it is listed. `place` is where, for people: ``line 3 of 목록.txt``."""

    place: str
    options: Mapping[str, Any]


def options_of_one(kind: type[CopySpec] = CopySpec) -> frozenset[str]:
    """Return the names of the options that may be given for one table; the others hold for the whole call."""
    return frozenset(each.name for each in kind.options() if not each.shared)


def entries_of(listed: object, place: str, kind: type[CopySpec] = CopySpec) -> tuple[Entry, ...]:
    """The entries of a list of names and mappings; the third is at ``<place>[2]``. Raises `ConfigError`."""
    if isinstance(listed, str | Mapping) or not isinstance(listed, Sequence):
        raise ConfigError(f"{place} must be a list of tables, not {type(listed).__name__}")
    return tuple(Entry(f"{place}[{at}]", _options(entry, f"{place}[{at}]", kind)) for at, entry in enumerate(listed))


def specs_of(
    entries: Iterable[Entry], shared: Mapping[str, Any], kind: type[CopySpec] = CopySpec
) -> tuple[CopySpec, ...]:
    """A spec for each, with the options `shared` by all. Raises `ConfigError`, naming the place and what is wrong."""
    if said := [name for name in NAMES if shared.get(name) is not None]:
        raise ConfigError(f"{said[0]} and a list of tables are two ways to say what is copied", hint="give one of them")
    current = with_current_names(shared, kind.options())
    common = {option: value for option, value in current.items() if option not in NAMES}
    specs: dict[TableName, tuple[str, CopySpec]] = {}
    for entry in entries:
        spec = _spec(entry, common, kind)
        if (before := specs.get(spec.target_table)) is not None:
            told = f"{entry.place}: {spec.target_table} is the target of {before[0]} already"
            raise ConfigError(told, hint="name each target once")
        specs[spec.target_table] = entry.place, spec
    if not specs:
        raise ConfigError("the list of tables is empty", hint="name one at least")
    return tuple(spec for _, spec in specs.values())


def _options(entry: object, place: str, kind: type[CopySpec]) -> Mapping[str, Any]:
    if isinstance(entry, str):
        return {"source_table": entry, "target_table": entry}
    if not isinstance(entry, Mapping):
        hint = 'write "영업.고객", or {"source_table": "영업.고객", "target_table": "분석.고객"}'
        raise ConfigError(f"{place} is neither a name nor a mapping of options: {entry!r}", hint=hint)
    try:
        entry = with_current_names(entry, kind.options())
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", hint=error.hint) from error
    known = options_of_one(kind)
    if unknown := [str(option) for option in entry if option not in known]:
        hint = f"of one table may be said: {', '.join(sorted(known))}; all else is said of all tables"
        raise ConfigError(f"{place}: {', '.join(unknown)} cannot be said of one table", hint=hint)
    if entry.get("target_table") is None:
        raise ConfigError(f"{place} names no target_table")
    return entry


def _spec(entry: Entry, common: Mapping[str, Any], kind: type[CopySpec]) -> CopySpec:
    try:
        return kind.of(**{**common, **entry.options})
    except ConfigError as error:
        raise ConfigError(f"{entry.place}: {error.message}", hint=error.hint) from error

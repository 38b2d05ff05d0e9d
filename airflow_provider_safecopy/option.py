"""Options, declared once, as fields of a dataclass whose metadata hold all that is known of an option.

The checks of `CopySpec`, the operator's signature and templates, the command's flags and the reference page follow from
these declarations.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.kind import Kind

LATER = "later"
"""The stand-in for a text that is not known yet."""

_DECLARED = "option"
_NESTED = "options of"
_FRAMES_OF = frozenset({"airflow", "airflow_provider_safecopy"})


@dataclass(frozen=True)
class Alias:
    """An old name of an option, accepted with a warning for one version.

    `value_map` maps the values it took, of the `kind` it had, to those of the option; without it they are the same. A value
    that maps to None is left out. `replacement` is what to write now; by default the name of the option.
    """

    name: str
    kind: Kind | None = None
    value_map: Mapping[Any, Any] | None = None
    replacement: str = ""

    def read(self, value: Any) -> Any:
        """Return the value for the current name. Raises `ConfigError`."""
        if self.value_map is None or self.kind is None:
            return value
        self.kind.check(self.name, value)
        return self.value_map[value]


@dataclass(frozen=True)
class Option:
    """An option as it is declared; its `name`, `default` and `required` come from the field.

    In `meaning`, names of options stand in backticks: operator, command and page each show their own spelling.
    `in_airflow` is what the operator adds to it. `default_text` says what a default of None does. `templated` options
    may be settled as late as the task runs, and `stand_in` stands for such a value until then. `shared` options hold
    for all tables of a call, the others may be given for one table alone.
    """

    kind: Kind
    meaning: str
    group: str
    name: str = ""
    flag: str = ""
    default: Any = None
    required: bool = False
    default_text: str = ""
    in_airflow: str = ""
    templated: bool = False
    stand_in: str | None = None
    shared: bool = False
    aliases: tuple[Alias, ...] = ()
    field: str = ""
    owner: str = ""

    def check(self, value: Any) -> None:
        """Raise `ConfigError` when the option cannot have this value."""
        # None stands for a default that the run chooses; elsewhere it is no value.
        if value is not None or self.default is not None:
            self.kind.check(self.name, value)


def declare(kind: Kind, meaning: str, **details: Any) -> Mapping[str, Option]:
    """Return a field's metadata that make an option of it; `details` are the other fields of `Option`."""
    return MappingProxyType({_DECLARED: Option(kind, meaning, **details)})


def option(default: Any, kind: Kind, meaning: str, **details: Any) -> Any:
    """Return a field that declares an option; `details` are the other fields of `Option`."""
    return field(default=default, metadata=declare(kind, meaning, **details))


def nest_options(declaring: type) -> Any:
    """Return a field that holds a dataclass whose fields are options, too."""
    return field(default_factory=declaring, metadata={_NESTED: declaring})


def read_options(declaring: type) -> tuple[Option, ...]:
    """Return the options that the fields of a dataclass declare, in their order, nested ones included."""
    return _read_options(declaring)


@cache
def _read_options(declaring: type) -> tuple[Option, ...]:
    found: list[Option] = []
    for each in fields(declaring):
        if (inner := each.metadata.get(_NESTED)) is not None:
            found += [replace(inside, owner=each.name) for inside in read_options(inner)]
        elif (known := each.metadata.get(_DECLARED)) is not None:
            name = known.name or each.name
            flag = known.flag or f"--{name.replace('_', '-')}"
            required = each.default is MISSING
            default = None if required else each.default
            found.append(replace(known, name=name, flag=flag, default=default, required=required, field=each.name))
    return tuple(found)


def check_options(values: Any) -> None:
    """Check the fields of a dataclass that declares options. Raises `ConfigError`."""
    for each in read_options(type(values)):
        if not each.owner:
            each.check(getattr(values, each.field))


def read_fields(declaring: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass from options as people write them, old names included. Raises `ConfigError`."""
    options, inner = read_options(declaring), _find_nested(declaring)
    known, current = {each.name: each for each in options}, with_current_names(values, options)
    if unknown := sorted(set(current) - set(known) - set(inner)):
        raise ConfigError(f"unknown option: {', '.join(unknown)}", hint=f"known: {', '.join(sorted(known))}")
    if missing := [each.name for each in options if each.required and current.get(each.name) is None]:
        raise ConfigError(f"{missing[0]} is missing")
    found: dict[str, Any] = {name: value for name, value in current.items() if name in inner}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in current.items():
        if (each := known.get(name)) is not None:
            kept = parts.setdefault(each.owner, {}) if each.owner else found
            kept[each.field] = each.kind.read(name, value)
    if twice := sorted(set(parts) & set(current)):
        raise ConfigError(f"{twice[0]} and single {twice[0]} contradict each other", hint="give one of them")
    return found | {owner: inner[owner](**part) for owner, part in parts.items()}


def _find_nested(declaring: type) -> dict[str, type]:
    return {each.name: each.metadata[_NESTED] for each in fields(declaring) if _NESTED in each.metadata}


def warn_of_old_name(message: str) -> None:
    """Warn that an old name was used, at the line outside of Airflow and this package that used it."""
    # A line of Airflow's would not show the author of a DAG what to change.
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 -- the documented way to walk the stack
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _FRAMES_OF:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, DeprecationWarning, stacklevel=level)


def with_current_names(
    values: Mapping[str, Any], options: Iterable[Option], *, warn: Callable[[str], None] = warn_of_old_name
) -> dict[str, Any]:
    """Return `values` under the current names of the options. Raises `ConfigError` where old and new contradict."""
    found = dict(values)
    for each in options:
        for alias in each.aliases:
            if alias.name not in found:
                continue
            value = alias.read(found.pop(alias.name))
            instead = alias.replacement or each.name
            warn(f"{alias.name} is deprecated, and the next version drops it: use {instead}")
            # The old value said what the default does.
            if value is None:
                continue
            if found.get(each.name) not in (None, value):
                raise ConfigError(f"{alias.name} contradicts {each.name}", hint=f"give {each.name} alone")
            found[each.name] = value
    return found

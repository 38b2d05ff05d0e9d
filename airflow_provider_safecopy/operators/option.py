"""The operator's face of the options: its signature, its documentation, and which of them are templates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from airflow_provider_safecopy.transfer.option import Option
from airflow_provider_safecopy.transfer.spec import CopySpec

_Init = TypeVar("_Init", bound=Callable[..., None])
_Parameter = inspect.Parameter


def with_options(kind: type[CopySpec]) -> Callable[[_Init], _Init]:
    """Decorate an operator's `__init__` that takes the options of `kind` as ``**options``.

    Airflow applies `default_args` and checks the arguments of `partial` by the signature, old names included.
    """

    def decorate(function: _Init) -> _Init:
        own = inspect.signature(function)
        *named, others = own.parameters.values()
        known = {each.name for each in named}
        declared = [each for each in _parameters(kind) if each.name not in known]
        function.__signature__ = own.replace(parameters=[*named, *declared, others])  # type: ignore[attr-defined]
        function.__doc__ = "\n".join(
            [inspect.getdoc(function) or "", "", *map(_describe_option, kind.options())]
        ).strip()
        return function

    return decorate


def list_templates(kind: type[CopySpec]) -> tuple[str, ...]:
    """Return the names of the options that may be templates, or results of other tasks."""
    return tuple(each.name for each in kind.options() if each.templated)


def split_options(kind: type[CopySpec], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of `kind` among the arguments, old names included, and the others, which are Airflow's."""
    names = {each.name for each in _parameters(kind)}
    ours = {name: value for name, value in given.items() if name in names}
    return ours, {name: value for name, value in given.items() if name not in names}


def _parameters(kind: type[CopySpec]) -> Iterator[inspect.Parameter]:
    for each in kind.options():
        annotation = each.kind.written + (" | None" if each.default is None else "")
        yield _Parameter(each.name, _Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation)
    for each in kind.options():
        for alias in each.aliases:
            yield _Parameter(alias.name, _Parameter.KEYWORD_ONLY, default=None, annotation="Any")


def _describe_option(each: Option) -> str:
    parts = [each.meaning, each.in_airflow]
    if each.default_text:
        parts.append(f"Default: {each.default_text}.")
    if each.templated:
        parts.append("(templated)")
    return f":param {each.name}: {' '.join(filter(None, parts))}"

"""Declaring options: one made from the words a spec allows, and several in the order they are told in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import click

from airflow_provider_safecopy.transfer.spec import CopySpec

_Command = Callable[..., Any]
_Decorator = Callable[[_Command], _Command]


def choice(name: str, literal: Any, purpose: str) -> _Decorator:
    """``--name`` with the words of `literal`, and the spec's own default."""
    default = next(field.default for field in fields(CopySpec) if field.name == name.replace("-", "_"))
    return click.option(
        f"--{name}", type=click.Choice(get_args(literal)), default=default, show_default=True, help=purpose
    )


def in_order(*options: Callable[[_Command], _Command]) -> _Decorator:
    """A decorator for all of them, shown in this order."""

    def decorate(function: _Command) -> _Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate

"""Names of options as the command line spells them, in texts that use the names of Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from airflow_provider_safecopy.spec import CopySpec

_QUOTED = re.compile(r"`([^`]+)`")


def flag(name: str) -> str:
    """Return the flag of an option, or of an old name: ``--key`` for ``key_columns``."""
    return _flags().get(name) or f"--{name.replace('_', '-')}"


def plain(meaning: str) -> str:
    """Return a declared meaning without backticks, the names of options in them as flags."""
    return _QUOTED.sub(lambda match: _flags().get(match[1], match[1]), meaning)


def spell_options(message: str) -> str:
    """Return a message or hint in which options are named by their flags.

    A name of several words is always the option; one that is an English word, such as ``lock``, only before ``=``.
    Names in quotes, or parts of other names, are the user's.
    """
    return _names().sub(_as_flag, message)


def _as_flag(match: re.Match[str]) -> str:
    return flag(match["name"]) + ("" if match["true"] or not match["equals"] else " ")


@cache
def _flags() -> Mapping[str, str]:
    found = {each.name: each.flag for each in CopySpec.options()}
    old = [alias.name for each in CopySpec.options() for alias in each.aliases]
    return found | {name: f"--{name.replace('_', '-')}" for name in old}


@cache
def _names() -> re.Pattern[str]:
    long = "|".join(name for name in _flags() if "_" in name)
    short = "|".join(name for name in _flags() if "_" not in name)
    name = rf"(?P<name>(?:{long})(?![\w\"'`/-]|\.\w)|(?:{short})(?==))"
    return re.compile(rf"(?<![\w.\"'`/-]){name}(?P<equals>=(?P<true>True\b)?(?=[\w'\"(\[{{-]|(?<=True)))?")

"""Kinds of options: sizes and lists."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def size(words: str) -> int:
    """Bytes: a number, or one with kB, MB or GB (of 1000). Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", words.strip().lower())
    if not match:
        raise ValueError(f"{words!r} is no size such as 200MB or 1GB")
    return int(float(match[1]) * _UNITS[match[2]])


class Size(click.ParamType):
    """A size in bytes."""

    name = "BYTES"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Words(click.ParamType):
    """Words with something between them; some of those `known`, where that is said."""

    name = "LIST"

    def __init__(self, *known: str, between: str = ",") -> None:
        self.known = known
        self.between = between

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = tuple(word.strip() for word in str(value).split(self.between) if word.strip())
        for word in words:
            if self.known and word not in self.known:
                self.fail(f"{word!r} is none of {', '.join(self.known)}", param, ctx)
        return words

"""Names of tables: read from what a person types, spelled as SQL would quote them.

Names are bytes. Nothing is folded to lower case, nothing is normalised (NFC beside NFD are two names),
nothing is cut: a name PostgreSQL would truncate silently is refused later, by the server's own count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_safecopy.errors import ConfigError

# What needs no quotes when read back by `TableName.parse`: anything but dots, quotes, blanks, controls.
_PLAIN = re.compile(r'[^\s."\x00-\x1f]+')
# Possessive: a long name without its closing quote is not tried again at each of its letters.
_PART = re.compile(r'"(?P<quoted>(?:[^"]++|"")++)"|(?P<plain>[^."]+)')


@dataclass(frozen=True, order=True)
class TableName:
    """A table's name. `schema` is None when it was not given: the server's search_path decides."""

    schema: str | None
    name: str

    def __post_init__(self) -> None:
        for part in (self.schema, self.name):
            if part is not None and (not part or "\0" in part):
                raise ConfigError(f"a table name may be neither empty nor hold a NUL: {part!r}")
            if part is not None and not is_text(part):
                raise ConfigError(
                    f"the table name {part!r} is not a text: it holds bytes of another encoding",
                    hint="give it in UTF-8, or in the encoding of your locale",
                )

    @classmethod
    def parse(cls, value: str | Sequence[str] | TableName) -> TableName:
        """Read ``영업.고객``, ``"영업"."주문.내역"``, or a pair ``("영업", "주문.내역")``.

        A pair is taken as it stands. In a string a dot separates schema and table unless it is inside
        double quotes; letters keep their case. Raises `ConfigError` where a reading would be a guess.
        """
        if isinstance(value, TableName):
            return value
        if not isinstance(value, str):
            return cls._from_parts(value)
        parts = _split_parts(value)
        if len(parts) > 2:
            guess = cls(parts[0], ".".join(parts[1:]))
            raise ConfigError(
                f"the table name {value!r} has {len(parts)} parts: it could be read in several ways",
                hint=f"quote it, for example {guess}, or give a pair (schema, table)",
            )
        return cls._from_parts(parts)

    @classmethod
    def _from_parts(cls, parts: object) -> TableName:
        match parts:
            case [str(name)]:
                return cls(None, name)
            case [str(schema), str(name)]:
                return cls(schema, name)
            case _:
                raise ConfigError(f"a table is a name or a pair (schema, table), not {parts!r}")

    def __str__(self) -> str:
        """Return the spelling that `parse` reads back, quoted only where it must be."""
        return ".".join(spell(part) for part in (self.schema, self.name) if part is not None)


def spell(identifier: str) -> str:
    """Return an identifier as a person reads it, in double quotes only if it has a dot, blank or quote."""
    if _PLAIN.fullmatch(identifier):
        return identifier
    return '"' + identifier.replace('"', '""') + '"'


def is_text(text: str) -> bool:
    """Return whether UTF-8 can spell `text`: words of a command line in another encoding hold lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _split_parts(text: str) -> list[str]:
    parts: list[str] = []
    position = 0
    while match := _PART.match(text, position):
        quoted = match["quoted"]
        parts.append(quoted.replace('""', '"') if quoted else match["plain"].strip())
        position = match.end() + 1
        if text[match.end() : position] not in (".", ""):
            break
        if match.end() == len(text):
            return parts
    raise ConfigError(
        f"the table name {text!r} cannot be read",
        hint='write schema.table, double-quoting parts with dots or quotes: "영업"."주문.내역"',
    )


def fold_name(identifier: str) -> str:
    """Return an equal text for names that look alike, or differ in letter case only."""
    return unicodedata.normalize("NFC", identifier).casefold()

"""A password that is planted, and the search for it in all that anything shows."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from airflow_provider_safecopy.errors import SafeCopyError

LEFT, RIGHT = "왼편열쇠", "오른편열쇠"
PASSWORD = f"{LEFT}@:/%\\ '\"#&=+?{RIGHT}"


def spellings() -> frozenset[str]:
    """Half of it is enough to give it away, and it may be quoted in any of these ways."""
    found = set()
    for word in (LEFT, RIGHT):
        found |= {word, quote(word), quote(word).lower(), quote_plus(word), json.dumps(word)[1:-1], ascii(word)[1:-1]}
        found |= {word.encode().hex(), str(word.encode())[2:-1]}
    return frozenset(found)


def hidden_from(text: str | bytes | Iterable[str]) -> bool:
    """Whether the password is in none of it, however it may be spelled there."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    told = text if isinstance(text, str) else "\n".join(text)
    return not any(spelling in told for spelling in spellings())


def exposed(error: BaseException) -> Iterator[str]:
    """Everything an error shows: its words, its data, its pickle, its traceback with the locals of every frame, its chain."""
    yield from (str(error), repr(error), repr(vars(error)), pickle.dumps(error).decode("utf-8", "backslashreplace"))
    if isinstance(error, SafeCopyError):
        yield json.dumps(error.as_dict(), ensure_ascii=False, default=str)
    yield from traceback.TracebackException.from_exception(error, capture_locals=True).format()
    for other in (error.__cause__, error.__context__):
        if other is not None:
            yield "".join(traceback.TracebackException.from_exception(other, capture_locals=True).format())
            yield from (exposed(other) if isinstance(other, SafeCopyError) else (str(other), repr(vars(other))))

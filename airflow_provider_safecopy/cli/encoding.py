r"""Text that a person types and reads, under any locale.

Korean is typed and read in two encodings: UTF-8, and EUC-KR on systems of an age (ko_KR.eucKR). Words
given in either are understood there; what is written uses the terminal's encoding, and a character it
lacks appears as its escape (``\ub620``): never a crash, never a question mark, never a wrong letter.
"""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path
from typing import TextIO

_ESCAPING_EUC_KR = "safecopy_euc_kr"


def arguments() -> list[str]:
    """The words of the command line as text.

    They are taken from the kernel, as bytes: what the C library made of them is not always reversible
    (glibc's EUC-KR reads the bytes 80 to 9F, and two signs, other than Python's does).
    """
    given = sys.argv[1:]
    if sys.getfilesystemencoding() == "utf-8" or not given:
        return given
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return [read(word) for word in given]
    return [decode(word, sys.getfilesystemencoding()) for word in words[-len(given) :]]


def read(word: str) -> str:
    """The text of a word that Python decoded by the locale, such as an environment variable's value."""
    try:
        raw = os.fsencode(word)
    except UnicodeEncodeError:
        return word
    return decode(raw, sys.getfilesystemencoding())


def decode(raw: bytes, locale_encoding: str) -> str:
    """`raw` as UTF-8 where that is valid, else in the locale's encoding.

    A few words are valid in both: the bytes of 책 in EUC-KR are å in UTF-8. Then the reading with Hangul
    in it is meant. Bytes valid in neither stay lone surrogates, which `TextType` refuses by name.
    """
    as_utf8 = raw.decode("utf-8", "surrogateescape")
    as_local = raw.decode(locale_encoding, "surrogateescape")
    if not _is_clean(as_local):
        return as_utf8
    if _is_clean(as_utf8) and (_has_hangul(as_utf8) or not _has_hangul(as_local)):
        return as_utf8
    return as_local


def settle_streams() -> tuple[str, ...]:
    """Make stdout and stderr exist and never fail on a character; return which were closed. Call it once, first of all."""
    codecs.register(_search)
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a file of ours would get the number of a stream
        pass
    os.close(descriptor)
    closed = tuple(name for name in ("stdout", "stderr") if getattr(sys, name) is None)
    for name in ("stdout", "stderr"):
        if name in closed:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 -- for the process's life
        _settle(getattr(sys, name))
    return closed


def is_terminal(stream: TextIO) -> bool:
    """Return whether a person looks at `stream`, on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}


def _settle(stream: TextIO) -> None:
    # A test's own stream.
    if not hasattr(stream, "reconfigure"):
        return
    encoding = codecs.lookup(stream.encoding).name
    stream.reconfigure(encoding=_ESCAPING_EUC_KR if encoding == "euc_kr" else encoding, errors="backslashreplace")


def _is_clean(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


def _has_hangul(text: str) -> bool:
    return any("가" <= character <= "힣" for character in text)


def _search(name: str) -> codecs.CodecInfo | None:
    if name != _ESCAPING_EUC_KR:
        return None
    plain = codecs.lookup("euc_kr")
    return codecs.CodecInfo(
        _encode_euc_kr,
        plain.decode,
        incrementalencoder=_Encoder,
        incrementaldecoder=plain.incrementaldecoder,
        name=_ESCAPING_EUC_KR,
    )


def _encode_euc_kr(text: str, errors: str = "strict") -> tuple[bytes, int]:
    r"""EUC-KR as servers and terminals know it.

    Python's codec spells the 8,822 syllables EUC-KR lacks as eight bytes of single letters, which nothing
    else reads back: 똠 would be shown as four other signs. Here they are escaped as any missing character.
    """
    escaped = "".join(f"\\u{ord(character):04x}" if _is_composed(character) else character for character in text)
    return escaped.encode("euc_kr", errors), len(text)


def _is_composed(character: str) -> bool:
    return "가" <= character <= "힣" and len(character.encode("euc_kr")) > 2


class _Encoder(codecs.IncrementalEncoder):
    def encode(self, text: str, final: bool = False) -> bytes:  # noqa: ARG002, FBT001, FBT002 -- codecs' own signature
        return _encode_euc_kr(text, self.errors)[0]

"""Where a command's words go: the result to stdout, everything else to stderr.

With ``--json`` stdout gets exactly one JSON object, in UTF-8 whatever the locale, also on failure.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from airflow_provider_safecopy.cli import exitcode, failure
from airflow_provider_safecopy.cli.encoding import is_terminal
from airflow_provider_safecopy.display import escape
from airflow_provider_safecopy.errors import SafeCopyError


@dataclass(frozen=True)
class Output:
    """The volume of a command's output. `verbose` counts the -v."""

    as_json: bool = False
    verbose: int = 0
    quiet: bool = False

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """Say what came of the command: `data` to a machine, `text` to a person who wants to hear."""
        if self.as_json:
            _write_json(data)
        elif not self.quiet:
            _write(f"{text}\n")

    def warn(self, text: str) -> None:
        """Say something on stderr that even a quiet command says."""
        write_message(f"safecopy: warning: {escape(text)}")

    def fail(self, error: SafeCopyError, *, subject: str = "") -> int:
        """Report `error`; the exit code to end with."""
        write_message(failure.format_error(error, subject=subject))
        if self.verbose > 1:
            write_message("".join(traceback.format_exception(error)))
        if self.as_json:
            _write_json({"status": "error", "error": error.as_dict()})
        return exitcode.find_code(error)

    def fail_unexpectedly(self, error: Exception) -> int:
        """Report a mistake of our own, with all that is known of it."""
        write_message("".join(traceback.format_exception(error)))
        write_message("safecopy: internal error: this is a mistake in SafeCopy; please report the lines above")
        if self.as_json:
            told = {"type": "InternalError", "message": f"{type(error).__name__}: {error}", "retryable": False}
            _write_json({"status": "error", "error": {**told, "hint": "please report this"}})
        return exitcode.INTERNAL

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Inside, the package's log goes to stderr: from INFO where no bars show the stages, or with -v."""
        told = logging.WARNING if self.quiet or (is_terminal(sys.stderr) and not self.verbose) else logging.INFO
        logger, handler = logging.getLogger("airflow_provider_safecopy"), _ToStderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s" if self.verbose else "%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if self.verbose > 1 else told)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _ToStderr(logging.Handler):
    """The stderr of the moment: while bars are shown, rich puts lines above them."""

    def emit(self, record: logging.LogRecord) -> None:
        write_message(escape(self.format(record)))


def write_message(text: str) -> None:
    """Write a line to stderr. A reader that has gone is no reason to stop a copy, or to fail."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def drop_unwritten() -> None:
    """Last of all: let go of what a stream could not write, or Python would fail over it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _write_json(data: Mapping[str, Any]) -> None:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    # A lone surrogate, of a word that was not text, becomes the \udcxx that JSON reads back.
    _write(text + "\n", raw=(text + "\n").encode("utf-8", "backslashreplace"))


def _write(text: str, *, raw: bytes | None = None) -> None:
    """Write to stdout and see it go. A report without a reader changes nothing about what it reports."""
    try:
        if raw is None:
            sys.stdout.write(text)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(raw)
        sys.stdout.flush()
    except OSError as error:
        write_message(f"safecopy: the result could not be written to stdout: {error.strerror}")

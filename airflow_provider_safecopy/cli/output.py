"""Where a command's words go: the result to stdout, everything else to stderr.

With ``--json`` stdout gets exactly one JSON object, in UTF-8 whatever the locale, also on failure.
"""

from __future__ import annotations

import io
import json
import logging
import os
import select
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

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
    _unwritten: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """Say what came of the command: `data` to a machine, `text` to a person who wants to hear."""
        try:
            if self.as_json:
                _write_json(data)
            elif not self.quiet:
                _write(sys.stdout, f"{text}\n")
        except OSError as error:
            self._unwritten.append(error.strerror or str(error))
            write_message(
                f"safecopy: the result could not be written to stdout: {self._unwritten[-1]}; "
                "what the command has done stays done"
            )

    def code(self, code: int) -> int:
        """Return the exit code of a command that came to `code`: another than 0 if its result was not written whole."""
        return code or (exitcode.UNWRITTEN if self._unwritten else exitcode.DONE)

    def warn(self, text: str) -> None:
        """Say something on stderr that even a quiet command says."""
        write_message(f"safecopy: warning: {escape(text)}")

    def fail(self, error: SafeCopyError, *, subject: str = "") -> int:
        """Report `error`; the exit code to end with."""
        write_message(failure.format_error(error, subject=subject))
        if self.verbose > 1:
            write_message("".join(traceback.format_exception(error)))
        if self.as_json:
            with suppress(OSError):  # the exit code says that it failed
                _write_json({"status": "error", "error": error.as_dict()})
        return exitcode.find_code(error)

    def fail_unexpectedly(self, error: Exception) -> int:
        """Report a mistake of our own in one line; its traceback is for those who look closely (-vv)."""
        from airflow_provider_safecopy import shortage

        if (short := shortage.find(error)) is not None:
            return self.fail(shortage.as_error(short, "prepare"))
        if self.verbose > 1:
            write_message("".join(traceback.format_exception(error)))
        message = failure.describe_unexpected(error)
        write_message(f"safecopy: internal error: {message}; {failure.HOW_TO_REPORT}")
        if self.as_json:
            told = {"type": "InternalError", "message": message, "retryable": False}
            with suppress(OSError):
                _write_json({"status": "error", "error": {**told, "hint": failure.HOW_TO_REPORT}})
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
        _write(sys.stderr, f"{text}\n")


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
    _write(sys.stdout, text + "\n", raw=(text + "\n").encode("utf-8", "backslashreplace"))


def _write(stream: TextIO, text: str, *, raw: bytes | None = None) -> None:
    """Write all of it, to a descriptor that does not block as well. Raises OSError if it cannot be written whole."""
    if not isinstance(stream, io.TextIOWrapper):  # such as that of progress bars
        stream.write(text)
        stream.flush()
        return
    _flush(stream)
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # kept in memory
        stream.buffer.write(raw or text.encode(stream.encoding, stream.errors or "strict"))
        return
    left = memoryview(raw or text.encode(stream.encoding, stream.errors or "strict"))
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            _wait_for_room(descriptor)


def _flush(stream: TextIO) -> None:
    """Write what others have left in its buffer."""
    while True:
        try:
            stream.flush()
            return
        except BlockingIOError:
            _wait_for_room(stream.fileno())


def _wait_for_room(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()

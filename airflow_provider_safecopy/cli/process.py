"""The start and the end of the command's process: its own time is most of what a small copy takes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

# Nearly all that is made while modules are imported stays: to look for garbage in it, hundreds of times, finds none.
_OBJECTS_BETWEEN_LOOKS = 50_000
# `exitcode.INTERNAL` and `exitcode.ABORTED`, which cannot be loaded then.
_FAILED, _ABORTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `safecopy` with `arguments` (default: the command line's, of a process that does nothing else); the exit code."""
    if arguments is not None:
        return _run(arguments)
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS)
    try:
        return _run(None)
    finally:
        # Python looks through everything once more when it ends; the memory is gone then anyway.
        gc.freeze()


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from airflow_provider_safecopy.cli.entry import main
    except (ImportError, OSError, MemoryError) as error:  # a damaged installation, or no descriptor or memory left
        if sys.stderr is not None:
            sys.stderr.write(
                f"safecopy: cannot be loaded: {error}; check its installation, and the limits (ulimit -a)\n"
            )
        return _FAILED
    except KeyboardInterrupt:
        return _ABORTED

    return main(arguments)

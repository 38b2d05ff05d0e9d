"""`safecopy run`."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from airflow_provider_safecopy.cli import exitcode, help_text, option, param_types
from airflow_provider_safecopy.cli.option import endpoints, with_output
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.errors import ConfigError, LockBusyError

if TYPE_CHECKING:
    from airflow_provider_safecopy.job import JobEnd
    from airflow_provider_safecopy.lock.living_lock import LivingLock

OnStall = Literal["end", "restart"]
_RESTARTS = 3


@click.command(
    help=help_text.RUN,
    short_help="Run any command under a living lock.",
    epilog=help_text.PASSWORDS,
    context_settings={"allow_interspersed_args": False},
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.option("--lock", "name", metavar="NAME", required=True, callback=param_types.words, help="The lock to hold.")
@click.option(
    "--store",
    metavar="DIR",
    callback=param_types.path,
    help="Keep the lock in this directory.  [default: a directory of this user, without --target]",
)
@option.endpoint("target")
@click.option(
    "--stale-after",
    metavar="TIME",
    callback=param_types.seconds,
    default="10min",
    help="End the command after nearly so long without progress; then others may take the lock.  [default: 10 min]",
)
@click.option(
    "--on-stall",
    type=click.Choice(("end", "restart")),
    default="end",
    show_default=True,
    help="When the command stands still: end it, or start it again.",
)
@click.option(
    "--restarts",
    metavar="N",
    type=click.IntRange(1),
    help=f"With --on-stall restart: start it again so many times at most.  [default: {_RESTARTS}]",
)
@option.overlap
@option.verbose
@click.option("-q", "--quiet", is_flag=True, help="Nothing of our own but warnings and errors.")
@with_output
def run(
    output: Output,
    *,
    command: tuple[str, ...],
    name: str,
    store: str | None,
    target: str | None,
    stale_after: float,
    on_stall: OnStall,
    restarts: int | None,
    owner: str,
    on_busy: Literal["fail", "skip", "wait"],
    wait_timeout: float,
) -> int:
    """Run the command, and answer its exit code."""
    if restarts is not None and on_stall != "restart":
        raise ConfigError("--restarts means nothing without --on-stall restart")
    if shutil.which(command[0]) is None:
        raise ConfigError(f"there is no command {command[0]}", hint="check its path, and that it may be executed")
    lock = _lock(output, name, store=store, target=target, stale_after=stale_after, owner=owner)
    most = (restarts or _RESTARTS) if on_stall == "restart" else 0
    try:
        end = _run(output, command, lock, restarts=most, patience=wait_timeout if on_busy == "wait" else None)
    except LockBusyError as error:
        if on_busy != "skip":
            raise
        output.warn(f"skipped: {error.message}")
        return exitcode.DONE
    return end.code


def _lock(
    output: Output, name: str, *, store: str | None, target: str | None, stale_after: float, owner: str
) -> LivingLock:
    from airflow_provider_safecopy.lock.living_lock import LivingLock
    from airflow_provider_safecopy.lock.model import Contender, Promise
    from airflow_provider_safecopy.lock.process import ProcessIdentity

    # This process does nothing else: a run that takes its lock over may end it.
    contender = replace(Contender.alone(owner), process=ProcessIdentity.read_current(may_end=True))
    promise = Promise(stale_after=stale_after)
    if store is None and target:
        (where,) = endpoints(output, target=target)
        return LivingLock(name, where, contender=contender, promise=promise)
    return LivingLock(name, Path(store) if store else _own_directory(), contender=contender, promise=promise)


def _run(
    output: Output, command: tuple[str, ...], lock: LivingLock, *, restarts: int, patience: float | None
) -> JobEnd:
    from airflow_provider_safecopy.job import Job

    if patience is None:
        lock.acquire()
    else:
        _acquire_patiently(output, lock, patience)
    try:
        return Job(command, lock, restarts=restarts).run()
    finally:
        lock.release()


def _acquire_patiently(output: Output, lock: LivingLock, seconds: float) -> None:
    """Wait for the lock. Raises `LockBusyError`, `AbortedError`."""
    import sys
    from functools import partial

    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.cli.progress import open_line
    from airflow_provider_safecopy.cli.signals import throw_on_signals
    from airflow_provider_safecopy.cli.waiting import LockWait

    switch = AbortSwitch()
    telling = partial(open_line, sys.stderr, quiet=output.quiet)
    with throw_on_signals(switch):
        LockWait(lock.store, seconds=seconds, abort=switch, telling=telling).until_free(lock.acquire)


def _own_directory() -> Path:
    """Return the directory of this user's locks: below XDG_STATE_HOME, its default, or without a home the temporary one."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path("~").expanduser() if os.environ.get("HOME") else None
    if not Path(state).is_absolute() and home is None:
        return _temporary_directory() / f"safecopy-{os.getuid()}"
    base = Path(state) if Path(state).is_absolute() else Path(str(home), ".local", "state")
    directory = base / "safecopy" / "locks"
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"no directory for the lock: {directory}: {error.strerror}", hint="name one with --store, or use --target"
        ) from error
    return directory


def _temporary_directory() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise ConfigError(
            f"no directory for the lock: no home, and {error.strerror}", hint="name one with --store, or use --target"
        ) from error

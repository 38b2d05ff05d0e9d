"""What the commands share: where their words go, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from airflow_provider_safecopy.cli import option
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.errors import AbortedError, SafeCopyError

if TYPE_CHECKING:
    from airflow_provider_safecopy.endpoint import Endpoint


def with_output(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command an `Output` and its log, and make its errors words and exit codes."""

    @wraps(function)
    def callback(*, as_json: bool = False, verbose: int = 0, quiet: bool = False, **options: Any) -> int:
        output = Output(as_json=as_json, verbose=verbose, quiet=quiet)
        subject = _subject(**options)
        try:
            with output.logging():
                return function(output, **options)
        except SafeCopyError as error:
            return output.fail(error, subject=subject)
        except KeyboardInterrupt as interrupt:
            return output.fail(AbortedError(str(interrupt) or "SIGINT"), subject=subject)
        except click.ClickException:
            raise
        except Exception as error:  # noqa: BLE001 -- the last place where a mistake of ours can be reported whole
            return output.fail_unexpectedly(error)

    return callback


def endpoints(output: Output, **given: str | None) -> tuple[Endpoint, ...]:
    """The endpoints named, in order; a warning for each password that anybody on the host can read. No core is left."""
    from airflow_provider_safecopy.endpoint import leave_no_core

    leave_no_core()
    found = {which: option.endpoint_of(which, conninfo) for which, conninfo in given.items()}
    for which, endpoint in found.items():
        if option.shows_password(which, endpoint):
            output.warn(
                f"the password in --{which} is visible to every user of this host, in the process list; "
                f"use a password file (PGPASSFILE), a service file, or the variable SAFECOPY_{which.upper()}"
            )
    return tuple(found.values())


def _subject(*, source_table: str | None = None, target_table: str | None = None, **_: object) -> str:
    """The copy meant, for a person; empty where the command makes none."""
    return f"{source_table or 'a query'} -> {target_table}" if target_table else ""

"""`safecopy locks`: who holds what, what happened, and a release by hand."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from airflow_provider_safecopy.cli import exitcode, help_text, layout, option, param_types
from airflow_provider_safecopy.cli.option import endpoints, with_output
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.display import escape
from airflow_provider_safecopy.errors import ConfigError

if TYPE_CHECKING:
    from airflow_provider_safecopy.lock.store import Store
    from airflow_provider_safecopy.postgres.endpoint import Endpoint

_NOT_THERE = "the schema safecopy is not there, or of an earlier version; safecopy init makes it"
_REMEMBERED = 1000


class _Listing(click.Group):
    """A group whose command, when none is named, is `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Listing, help=help_text.LOCKS, short_help="Show who holds which lock; release one.", epilog=help_text.PASSWORDS
)
def locks() -> None:
    """See the commands."""


@locks.command(
    "list", help=help_text.LOCKS_LIST, short_help="Who holds what (the default).", epilog=help_text.PASSWORDS
)
@option.endpoint("target")
@option.connect_timeout
@option.output
@with_output
def list_(output: Output, *, target: str | None, connect_timeout: float) -> int:
    """Print who holds what."""
    (endpoint,) = endpoints(output, target=target)
    with _store(endpoint, connect_timeout) as store:
        held = [each.as_dict() for each in store.read_holders()] if store else []
        text = f"no lock is held in {escape(endpoint)}"
        if store is None:
            text += f": {_NOT_THERE}"
        output.result(
            {"status": "listed", "target": str(endpoint), "initialised": store is not None, "locks": held},
            "\n".join(layout.format_holders(held)) if held else text,
        )
    return exitcode.DONE


@locks.command(
    "history", help=help_text.LOCKS_HISTORY, short_help="What happened to locks.", epilog=help_text.PASSWORDS
)
@option.endpoint("target")
@click.option("--lock", "name", metavar="NAME", callback=param_types.text, help="Of this lock alone.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most events to show.")
@option.connect_timeout
@option.output
@with_output
def history(output: Output, *, target: str | None, name: str | None, limit: int, connect_timeout: float) -> int:
    """Print what happened."""
    (endpoint,) = endpoints(output, target=target)
    with _store(endpoint, connect_timeout) as store:
        if store is not None and name is not None:
            _require_known(store, name, endpoint)
        events = store.read_history(name, limit=limit) if store else ()
        output.result(
            {
                "status": "listed",
                "target": str(endpoint),
                "initialised": store is not None,
                "events": [layout.event_as_dict(event) for event in events],
            },
            "\n".join(layout.format_history(events))
            if events
            else f"nothing has happened yet in {escape(endpoint)}{'' if store else f': {_NOT_THERE}'}",
        )
    return exitcode.DONE


@locks.command(
    "release", help=help_text.LOCKS_RELEASE, short_help="Take a lock from its holder.", epilog=help_text.PASSWORDS
)
@click.argument("name", callback=param_types.words)
@option.endpoint("target")
@click.option(
    "--reason", metavar="TEXT", required=True, callback=param_types.words, help="Why; kept in the lock's history."
)
@option.connect_timeout
@option.output
@with_output
def release(output: Output, *, name: str, target: str | None, reason: str, connect_timeout: float) -> int:
    """Take it from its holder."""
    from airflow_provider_safecopy.lock.liveness import Displacement, end_displaced

    (endpoint,) = endpoints(output, target=target)
    with _store(endpoint, connect_timeout) as store:
        if store is None:
            raise ConfigError(f"no lock is held in {endpoint}", hint=_NOT_THERE)
        displaced = store.force_release(name, reason=reason)
        if displaced is None:
            _require_known(store, name, endpoint)
            raise ConfigError(f"the lock {name} is free in {endpoint}", hint=f"see {_see(name)}")
        sessions, processes = end_displaced(store, displaced, Displacement("force-release", store.label, name))
    ended = f"{sessions} server sessions ended" + "".join(f", process {pid} ended" for pid in processes)
    output.result(
        {
            "status": "released",
            "target": str(endpoint),
            "lock": name,
            "token": displaced.token,
            "owner": dict(displaced.owner),
            "owner_key": displaced.owner_key,
            "reason": reason,
            "sessions_ended": sessions,
            "processes_ended": list(processes),
        },
        f"lock {escape(name)} is free: taken from {escape(displaced)} (token {displaced.token}), who may publish no more"
        f"; {ended}",
    )
    return exitcode.DONE


@contextmanager
def _store(endpoint: Endpoint, connect_timeout: float) -> Iterator[Store | None]:
    """The store of the locks in a target; None where it has none yet. Raises `StageError`, `LockStoreError`."""
    from airflow_provider_safecopy.lock import schema
    from airflow_provider_safecopy.lock.postgres import PostgresStore

    with endpoint.connect(application_name="safecopy", connect_timeout=connect_timeout) as connection:
        made = schema.is_ready(connection)
        there = endpoint.narrow_to(connection)
    if not made:
        yield None
        return
    store = PostgresStore(there, connect_timeout=connect_timeout)
    try:
        yield store
    finally:
        store.close()


def _require_known(store: Store, name: str, endpoint: Endpoint) -> None:
    """Raise `ConfigError` with the names that look alike, when no lock of this name was ever held or remembered."""
    held = {each.name for each in store.read_holders()}
    known = held | {event.name for event in store.read_history(limit=_REMEMBERED)}
    if name in known or store.read_history(name, limit=1):
        return
    alike = _alike(name, known)
    raise ConfigError(
        f"there is no lock {name} in {endpoint}",
        hint=f"there is {', '.join(alike)}; give the name exactly as it is" if alike else "see safecopy locks",
    )


def _alike(name: str, known: set[str]) -> list[str]:
    """The names that were perhaps meant: the same but for letter case or normalisation first, then near ones."""
    from airflow_provider_safecopy.postgres.names import fold_name

    same = [each for each in sorted(known) if fold_name(each) == fold_name(name)]
    near = difflib.get_close_matches(name, sorted(known - set(same)), n=3, cutoff=0.6)
    return same + near


def _see(name: str) -> str:
    import shlex

    return f"safecopy locks history --lock {shlex.quote(name)}"

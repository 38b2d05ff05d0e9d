"""What the environment would tell libpq, and may not: a connection alone says where it goes.

Passwords may come from there (PGPASSWORD, PGPASSFILE), and the file of a service that the connection names
(PGSERVICEFILE). Any other PG* variable is shut out, whichever parameter the connection leaves open.
"""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from psycopg import pq

from airflow_provider_safecopy.errors import ConfigError

_VARIABLES = {
    option.keyword.decode(): option.envvar.decode()
    for option in pq.Conninfo.get_defaults()
    if option.envvar is not None
}
# Secrets; and what is said for each session anyway.
_NOT_SHUT_OUT = frozenset({"password", "passfile", "application_name", "client_encoding", "connect_timeout"})
# No value of theirs means what none does.
_UNSPEAKABLE = frozenset({"service", "require_auth"})
# Older than PGSSLMODE, and still read where that is not set.
_OLD_SSLMODE = "PGREQUIRESSL"
# What libpq does where nothing is said, and where an empty text would not be the same.
_DEFAULTS = {"sslcertmode": "allow", "min_protocol_version": "3.0", "max_protocol_version": "3.0"}

_changing = threading.Lock()
_hidden: dict[str, tuple[str | None, int]] = {}


def find_ignored_variables(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return the PG* variables that are set, and would have filled in for `parameters`."""
    return tuple(sorted({name for names in _variables(parameters).values() for name in names}))


@contextmanager
def shut_out(parameters: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What to add to `parameters` so that libpq asks the environment for none of the others, inside the block.

    libpq asks it for whatever is not said; so all is said that it would find there. Of a service, and of the ways to
    prove who one is, "none in particular" cannot be said: their variables are hidden for the length of the block. Where
    the connection names a service, whose file says what is not said, all of them are.
    """
    found = _variables(parameters)
    said = {} if "service" in parameters else {key: _default(key) for key in found.keys() - _UNSPEAKABLE}
    hidden = {name for key in found.keys() - said.keys() for name in found[key]}
    # psycopg tries the hosts of this one again without it.
    if parameters.get("target_session_attrs") == "prefer-standby":
        hidden.add(_VARIABLES["target_session_attrs"])
    with _hide(hidden):
        yield said


def _variables(parameters: Mapping[str, str]) -> dict[str, list[str]]:
    """Of each parameter that is not said, the variables that would say it."""
    open_to_it = _VARIABLES.keys() - parameters.keys() - _NOT_SHUT_OUT
    found = {key: [_VARIABLES[key]] for key in open_to_it if _VARIABLES[key] in os.environ}
    if "sslmode" in open_to_it and _OLD_SSLMODE in os.environ:
        found.setdefault("sslmode", []).append(_OLD_SSLMODE)
    return found


def _default(keyword: str) -> str:
    """What libpq takes where nothing is said; an empty text is the same to it, but for a few."""
    if keyword == "user":
        return _system_user()
    compiled = {option.keyword.decode(): option.compiled for option in pq.Conninfo.get_defaults()}[keyword]
    return compiled.decode() if compiled else _DEFAULTS.get(keyword, "")


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        message = f"the connection names no user, and the system has no name for the user id {os.geteuid()}"
        raise ConfigError(message, hint="add user=… to the connection; PGUSER is ignored") from None


@contextmanager
def _hide(names: Iterable[str]) -> Iterator[None]:
    """Without these variables. Threads that hide the same one at once share it, and the last puts it back."""
    hidden = sorted(names)
    with _changing:
        for name in hidden:
            value, count = _hidden.get(name) or (os.environ.pop(name, None), 0)
            _hidden[name] = value, count + 1
    try:
        yield
    finally:
        with _changing:
            for name in hidden:
                _uncover(name)


def _uncover(name: str) -> None:
    value, count = _hidden.pop(name)
    if count > 1:
        _hidden[name] = value, count - 1
    elif value is not None:
        os.environ.setdefault(name, value)

"""Shut out the PG* variables that libpq would read: only the connection says where it goes.

Passwords may come from the environment (PGPASSWORD, PGPASSFILE), and so may the file of a service that the connection
names (PGSERVICEFILE). Any other PG* variable is shut out, whichever parameter the connection omits.
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
# Secrets belong in no connection string, and each session sets the other parameters anyway.
_NOT_SHUT_OUT = frozenset({"password", "passfile", "application_name", "client_encoding", "connect_timeout"})
# Parameters without a value that means the same as no value.
_UNSPEAKABLE = frozenset({"service", "require_auth"})
# What libpq sends of its own accord, whatever the connection says; there is no parameter for it.
_SENT = ("PGDATESTYLE", "PGTZ", "PGGEQO")
# Older than PGSSLMODE, and still read if that is not set.
_OLD_SSLMODE = "PGREQUIRESSL"
# Defaults of libpq for which an empty text would not mean the same.
_DEFAULTS = {"sslcertmode": "allow", "min_protocol_version": "3.0", "max_protocol_version": "3.0"}

_changing = threading.Lock()
_hidden: dict[str, tuple[str | None, int]] = {}


def find_ignored_variables(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return the PG* variables that are set, and would have added to `parameters`."""
    filled = {name for names in _variables(parameters).values() for name in names}
    return tuple(sorted(filled.union(name for name in _SENT if name in os.environ)))


@contextmanager
def shield_from_environment(parameters: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield what to add to `parameters` so that libpq reads no others from the environment.

    libpq asks the environment for each missing parameter, so each one that it would find there is given. A service and
    `require_auth` have no value for "none in particular": their variables are hidden during the block. If the
    connection names a service, whose file may give the missing parameters, all variables are hidden.
    """
    found = _variables(parameters)
    said = {} if "service" in parameters else {key: _default(key) for key in found.keys() - _UNSPEAKABLE}
    hidden = {name for key in found.keys() - said.keys() for name in found[key]}.union(_SENT)
    # psycopg tries the hosts again without this one.
    if parameters.get("target_session_attrs") == "prefer-standby":
        hidden.add(_VARIABLES["target_session_attrs"])
    with _hide(hidden):
        yield said


def _variables(parameters: Mapping[str, str]) -> dict[str, list[str]]:
    """Return, for each missing parameter, the variables that would set it."""
    open_to_it = _VARIABLES.keys() - parameters.keys() - _NOT_SHUT_OUT
    found = {key: [_VARIABLES[key]] for key in open_to_it if _VARIABLES[key] in os.environ}
    if "sslmode" in open_to_it and _OLD_SSLMODE in os.environ:
        found.setdefault("sslmode", []).append(_OLD_SSLMODE)
    return found


def _default(keyword: str) -> str:
    """Return libpq's default; for most parameters an empty text means the same."""
    if keyword == "user":
        return _system_user()
    compiled = {option.keyword.decode(): option.compiled for option in pq.Conninfo.get_defaults()}[keyword]
    return compiled.decode() if compiled else _DEFAULTS.get(keyword, "")


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        message = f"the connection names no user, and the system knows no name for user id {os.geteuid()}"
        raise ConfigError(message, hint="add user=… to the connection; PGUSER is ignored") from None


@contextmanager
def _hide(names: Iterable[str]) -> Iterator[None]:
    """Hide these variables. Threads that hide the same one share it, and the last restores it."""
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

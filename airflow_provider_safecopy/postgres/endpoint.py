"""The address of a database. No other core module ever sees a password.

An endpoint is libpq's own connection parameters, in libpq's own words. psycopg resolves them (service
files, password files, several hosts), and reads only secrets from PG* variables; psql is then sent to the very server
that psycopg reached, with the password in a file that exists in memory alone.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from airflow_provider_safecopy import shortage
from airflow_provider_safecopy.errors import ConfigError, StageError
from airflow_provider_safecopy.postgres import memory
from airflow_provider_safecopy.postgres.environment import find_ignored_variables, shield_from_environment

_KNOWN = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
# psql reads the password from a file of ours; libpq can read none of these from a file.
_UNSUPPORTED_SECRETS = frozenset({"sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
# Decided by us, for every session alike, or already settled by the connection psql repeats.
_OURS = frozenset({"password", "passfile", "service", "servicefile", "application_name", "fallback_application_name"})
_SETTLED = _OURS | {"client_encoding", "target_session_attrs", "load_balance_hosts", "connect_timeout"}
# What psql's libpq knows since version 14: newer words go to psql only if the user gave them.
_SINCE_14 = frozenset(
    [
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "options",
        "channel_binding",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "gssencmode",
        "sslmode",
        "sslcompression",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
        "sslcrldir",
        "sslsni",
        "requirepeer",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
    ]
)
# A dead peer is noticed in about 25 s, unless the user asks otherwise.
_KEEPALIVES = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
# Of a control session, which sends questions: these a server's kernel takes at once, however busy it is. Not of psql: an
# import's bytes wait in the sender when the server stands still for a while (a slow disk), and Linux would end that
# connection though the server answers. What stands still too long is the stall watchdog's to end.
_UNANSWERED = {"tcp_user_timeout": "25000"}
# Where the C library and TLS find their files. No PG* variable is ever handed on.
_HANDED_ON = ("HOME", "KRB5CCNAME", "KRB5_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZDIR")
# Only a hint for `retryable`: libpq tells no SQLSTATE for a refused connection, and words may be translated.
_HOPELESS = re.compile(
    r"password authentication failed|does not exist|no pg_hba\.conf entry|not permitted to log in|have CONNECT privilege"
)
_NOT_ALLOWED = "have CONNECT privilege"
_URI = re.compile(r"postgres(?:ql)?://")
_WRONG_WORD = re.compile(r'invalid (?:connection option|URI query parameter:) "\w+"')
_PORTS = re.compile(r"[0-9\s,]*")
_TOLD = ("service", "host", "hostaddr", "port", "dbname", "user")


@dataclass(frozen=True)
class Endpoint:
    """One database. `parameters` are libpq's; they may hold a password and never appear in a repr."""

    parameters: Mapping[str, str] = field(repr=False)
    label: str = ""
    ignored: tuple[str, ...] = ()
    """The PG* variables that were set when it was made, and are ignored."""

    @classmethod
    def from_conninfo(cls, conninfo: str) -> Endpoint:
        """Return the endpoint of a libpq conninfo or URI. Raises `ConfigError`, which repeats no secret."""
        parsed = _parse_conninfo(conninfo)
        if isinstance(parsed, ConfigError):
            # A tool that records the locals of a traceback must find no password.
            del conninfo
            raise parsed
        return cls.from_parameters(parsed)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Endpoint:
        """Return the endpoint of libpq's parameters by name, without None and empty values. Raises `ConfigError`."""
        given = {key: str(value) for key, value in parameters.items() if value is not None and value != ""}
        if (wrong := _wrong(given)) is not None:
            # As above: they may hold a password.
            del parameters, given
            raise wrong
        return cls(given, _label(given), find_ignored_variables(given))

    def __str__(self) -> str:
        return self.label

    def connect(
        self,
        *,
        application_name: str,
        connect_timeout: float,
        kind: type[psycopg.Connection[Any]] = psycopg.Connection,
    ) -> psycopg.Connection[Any]:
        """Open a new autocommit session. Raises `StageError(stage="connect")`, whose text holds no password.

        psycopg prepares no statement by name.
        """
        try:
            # A statement prepared by name is lost where a pooler gives each transaction another session.
            with shortage.translate("connect"), shield_from_environment(self.parameters) as said:
                return kind.connect(
                    self._conninfo(application_name, connect_timeout, said), autocommit=True, prepare_threshold=None
                )
        except psycopg.Error as error:
            unreachable = self._unreachable(error)
        # psycopg looks hosts up by Python's own rules for their names.
        except UnicodeError as error:
            unreachable = StageError(
                f"{self.label}: cannot connect: no host can have such a name: {error}",
                stage="connect",
                retryable=False,
                hint="check host, port and network",
            )
        # Out here it has no context: locals of psycopg's own frames hold the password.
        raise unreachable

    def narrow_to(self, connection: psycopg.Connection[Any]) -> Endpoint:
        """Return this endpoint, narrowed to the server, user and password that `connection` has reached."""
        info = connection.info
        settled = _settled_parameters(connection)
        given = {key: value for key, value in self.parameters.items() if key not in _SETTLED}
        for own in _UNANSWERED.keys() - self.parameters.keys():
            settled.pop(own, None)
        there = {"host": info.host, "port": str(info.port), "dbname": info.dbname, "user": info.user}
        password = {"password": info.password} if info.password else {}
        return replace(self, parameters=given | settled | there | password)

    def psql_conninfo(self) -> str:
        """Return psql's connection string for its command line: everything but secrets."""
        return make_conninfo(**_KEEPALIVES | {k: v for k, v in self.parameters.items() if k not in _SETTLED})

    @contextmanager
    def psql_environment(
        self, *, application_name: str, connect_timeout: float
    ) -> Iterator[tuple[dict[str, str], list[int]]]:
        """Yield psql's environment, built from nothing, and the descriptors that it must inherit.

        The password is a password file in memory: nothing on disk, nothing in any environment.
        """
        environment = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        environment |= {
            "LC_ALL": "C",
            "PGAPPNAME": application_name,
            "PGCLIENTENCODING": "UTF8",
            "PGCONNECT_TIMEOUT": str(max(2, round(connect_timeout))),
        }
        if "password" not in self.parameters:
            # Without this, psql would look into ~/.pgpass and might find another password than psycopg did. Of a file that
            # is not there it says nothing; of a device it would say that it is no plain file.
            yield environment | {"PGPASSFILE": f"{os.devnull}/none"}, []
            return
        descriptor = _password_file(self)
        try:
            yield environment | {"PGPASSFILE": f"/proc/self/fd/{descriptor}"}, [descriptor]
        finally:
            os.close(descriptor)

    def _conninfo(self, application_name: str, connect_timeout: float, said: dict[str, str]) -> str:
        """Return psycopg's connection string, the password included."""
        parameters = _KEEPALIVES | _UNANSWERED | said | dict(self.parameters)
        parameters |= {
            "application_name": application_name,
            "client_encoding": "UTF8",
            "connect_timeout": str(max(2, round(connect_timeout))),
        }
        return make_conninfo(**parameters)

    def _unreachable(self, error: psycopg.Error) -> StageError:
        text = str(error).strip()
        if password := self.parameters.get("password"):
            text = text.replace(password, "***")
        if (short := shortage.find_in(text) or shortage.look()) is not None:
            return shortage.as_error(short, "connect")
        refused = error.pgconn is not None and bool(error.pgconn.needs_password)
        hint = "check the password" if refused or "password authentication" in text else "check host, port and network"
        if _NOT_ALLOWED in text:
            hint = "grant the role CONNECT on the database"
        if self.ignored:
            hint += f"; {', '.join(self.ignored)} in the environment {'is' if len(self.ignored) == 1 else 'are'} ignored: put these settings into the connection"
        return StageError(
            f"{self.label}: cannot connect: {text}",
            stage="connect",
            retryable=not (refused or _HOPELESS.search(text)),
            hint=hint,
        )


def _settled_parameters(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the parameters that psql needs too and that have not libpq's default.

    psycopg has a method for this, which fails for a user without a home directory.
    """
    compiled = {option.keyword: option.compiled for option in pq.Conninfo.get_defaults()}
    compiled[b"channel_binding"] = compiled.get(b"channel_binding") or b"prefer"
    return {
        option.keyword.decode(): option.val.decode()
        for option in connection.pgconn.info
        if option.val and option.keyword.decode() in _SINCE_14 and option.val != compiled.get(option.keyword)
    }


def leave_no_core() -> None:
    """Let this process leave no core file when it crashes: rows and passwords would be in it.

    A limit of one byte: no file is that small, and only 0 would be ignored where the system collects cores by a program.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (1 if hard == resource.RLIM_INFINITY else min(1, hard), hard))


def _parse_conninfo(conninfo: str) -> dict[str, str] | ConfigError:
    """Return libpq's parameters, or the error in them, which repeats no secret."""
    hint = "write host=… port=… dbname=… user=…, or postgresql://user@host:port/dbname"
    if _is_ambiguous(conninfo):
        return ConfigError(
            "the connection URI has an @ where its host or database would be: a part of the password?",
            hint="write %40 for an @ and %2F for a / that are not the URI's own",
        )
    # Libpq would read no further, and reach another database than the one meant.
    if "\0" in conninfo:
        return ConfigError("the connection string cannot be read: it holds a NUL", hint=hint)
    try:
        found = conninfo_to_dict(conninfo)
    except (psycopg.ProgrammingError, UnicodeError) as error:
        # libpq's message may quote the part it could not read, which may be the password; of a wrong word it is not.
        told = _WRONG_WORD.match(str(error))
        detail = f": {told[0]}" if told and "password" not in conninfo and "@" not in conninfo else ""
        return ConfigError(f"the connection string cannot be read{detail}", hint=hint)
    given = {key: str(value) for key, value in found.items() if value is not None and value != ""}
    return _wrong(given) or given


def _is_ambiguous(conninfo: str) -> bool:
    """Return whether a stray @ or / would make libpq take part of a password for the host or database.

    Messages show host and database.
    """
    if (uri := _URI.match(conninfo)) is None:
        return False
    authority, _, database = conninfo[uri.end() :].partition("?")[0].partition("/")
    return authority.count("@") > 1 or "@" in database


def _wrong(given: Mapping[str, str]) -> ConfigError | None:
    """Return the error in these parameters, without a value of theirs; None if there is none."""
    if unknown := set(given) - _KNOWN:
        return ConfigError(f"unknown connection parameter: {', '.join(sorted(unknown))}")
    if secrets := set(given) & _UNSUPPORTED_SECRETS:
        return ConfigError(
            f"the connection parameter {', '.join(sorted(secrets))} cannot be handed to psql safely",
            hint="use a key without a passphrase, or a password",
        )
    for key, value in given.items():
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            return ConfigError(f"the connection parameter {key} is not a text: it holds a NUL, or another encoding")
    # The port of a URI without a host may be its password, so its value is not shown.
    if not _PORTS.fullmatch(given.get("port", "")):
        return ConfigError("the connection parameter port is no number")
    for key in _TOLD:
        if "password=" in given.get(key, "").replace(" ", ""):
            hint = "put blanks between parameters, not semicolons, commas or ampersands"
            return ConfigError(f"the connection parameter {key} holds a password= that was meant for itself", hint=hint)
    return _more_than_one_line(given)


def _more_than_one_line(given: Mapping[str, str]) -> ConfigError | None:
    password = given.get("password", "")
    if "\n" in password or "\r" in password:
        return ConfigError("a password with a line break cannot be handed to psql")
    return None


def _password_file(endpoint: Endpoint) -> int:
    """Return a password file for libpq that matches any host, database and user. The caller closes it."""
    # Checked once more: the password may come from the environment.
    if (wrong := _more_than_one_line(endpoint.parameters)) is not None:
        raise wrong
    escaped = endpoint.parameters["password"].replace("\\", "\\\\").replace(":", "\\:")
    return memory.memory_file(f"*:*:*:*:{escaped}\n".encode(), "safecopy-password")


def _label(parameters: Mapping[str, str]) -> str:
    """Return ``host:port/dbname``, or the service's name, so that a person knows which database is meant."""
    if "service" in parameters and "host" not in parameters:
        return f"service={parameters['service']}"
    host = parameters.get("host") or parameters.get("hostaddr") or "local"
    database = parameters.get("dbname") or parameters.get("user") or ""
    return f"{host}:{parameters.get('port', '5432')}/{database}"

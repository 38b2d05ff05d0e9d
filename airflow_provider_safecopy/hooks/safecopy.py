"""The door from Airflow's connections to SafeCopy's endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus

from airflow.providers.common.compat.sdk import BaseHook, Connection, mask_secret

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.transfer.model import CopyReport, CopySpec, Progress
from airflow_provider_safecopy.transfer.plan import CopyPlan

# What PostgresHook and the hook below it read from a connection's extra for themselves: not libpq's words.
POSTGRES_HOOK_EXTRAS = frozenset(
    {
        "aws_conn_id",
        "azure_conn_id",
        "cluster-identifier",
        "cursor",
        "escape_column_names",
        "escape_word_format",
        "iam",
        "insert_statement_format",
        "placeholder",
        "redshift",
        "redshift-serverless",
        "replace_statement_format",
        "sqlalchemy_query",
        "sqlalchemy_scheme",
        "workgroup-name",
    }
)


class SafeCopyHook(BaseHook):
    """A pair of PostgreSQL databases to copy between, each an Airflow connection of type ``postgres``.

    A connection's host, port, schema (the database), login and password become libpq's parameters; so
    does everything in its extra that libpq knows (``sslmode``, ``options``, ``service``, …). What only
    `PostgresHook` reads there (``cursor``, ``sqlalchemy_scheme``, …) is ignored; anything else is an error.

    `psql` is the path of the psql to use; None means ``SAFECOPY_PSQL``, else the one that is found.

    Not promised: tokens instead of passwords (``iam``) are refused, because they expire while a copy,
    which connects several times, may still run.
    """

    hook_name = "SafeCopy"

    def __init__(self, source_conn_id: str, target_conn_id: str, psql: str | None = None) -> None:
        super().__init__()
        self.source_conn_id = source_conn_id
        self.target_conn_id = target_conn_id
        self.psql = psql

    @cached_property
    def source(self) -> Endpoint:
        """Where rows come from. Raises `ConfigError`, or Airflow's own error when there is no such connection."""
        return endpoint_of(self.get_connection(self.source_conn_id))

    @cached_property
    def target(self) -> Endpoint:
        """Where rows go. Raises `ConfigError`, or Airflow's own error when there is no such connection."""
        return endpoint_of(self.get_connection(self.target_conn_id))

    def copy(
        self,
        spec: CopySpec,
        *,
        owner: str = "",
        abort: AbortSwitch | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> CopyReport:
        """Copy as `spec` says and answer what came of it. Raises the errors of `SafeCopyError`'s tree.

        `owner` is recorded with the copy; throwing `abort` stops it; `progress` is called from this thread.
        """
        return pipeline.copy(
            self._with_psql(spec), self.source, self.target, owner=owner, abort=abort, progress=progress
        )

    def plan(self, spec: CopySpec) -> CopyPlan:
        """What `copy` would do, with its reasons and refusals. Nothing is touched."""
        return pipeline.plan(self._with_psql(spec), self.source, self.target)

    def test_connection(self) -> tuple[bool, str]:
        """Whether the doctor finds both databases and psql fit for copying, and what it found."""
        from airflow_provider_safecopy import doctor

        checks = doctor.examine(self.source, self.target, psql=self.psql)
        found = [f"{check.name}: {check.outcome}: {check.detail}" for check in checks]
        return all(check.outcome != "failed" for check in checks), "\n".join(found)

    def _with_psql(self, spec: CopySpec) -> CopySpec:
        return replace(spec, psql=spec.psql or self.psql)


def endpoint_of(connection: Connection) -> Endpoint:
    """The endpoint an Airflow connection means; its password is masked in task logs from here on.

    Raises `ConfigError`, naming the connection, for another type of connection and for an unknown extra.
    """
    where = f"connection {connection.conn_id!r}"
    if connection.conn_type != "postgres":
        raise ConfigError(
            f"{where} is of type {connection.conn_type!r}, not 'postgres'",
            hint="SafeCopy copies between PostgreSQL databases: give a connection of type postgres",
        )
    parameters = _fields(connection) | _extras(connection, where)
    _mask(parameters.get("password"))
    try:
        return Endpoint.from_parameters(parameters)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint or "look at its extra") from error


def _fields(connection: Connection) -> dict[str, Any]:
    return {
        "host": connection.host,
        "port": connection.port,
        "dbname": connection.schema,
        "user": connection.login,
        "password": connection.password,
    }


def _extras(connection: Connection, where: str) -> dict[str, Any]:
    extra = connection.extra_dejson
    if extra.get("iam"):
        raise ConfigError(
            f"{where} asks for an IAM token, which expires while a copy may still need to connect",
            hint="give SafeCopy a connection with a password, a certificate or a service file",
        )
    return {key: _as_libpq(value, key, where) for key, value in extra.items() if key not in POSTGRES_HOOK_EXTRAS}


def _as_libpq(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool):
        return str(int(value))  # libpq says 1 and 0
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{where}: the extra {key!r} must be a string or a number")


def _mask(password: str | None) -> None:
    """Airflow masks the password itself; in a URL it is spelled otherwise, and that is as secret."""
    if password:
        for spelling in {quote(password), quote(password, safe=""), quote_plus(password)}:
            mask_secret(spelling)

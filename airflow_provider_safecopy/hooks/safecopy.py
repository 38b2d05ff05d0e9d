"""The door from Airflow's connections to SafeCopy's endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import UUID, uuid4

from airflow.providers.common.compat.sdk import BaseHook, Connection, mask_secret

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.hooks.compat import patch_non_latin1_ids
from airflow_provider_safecopy.hooks.dag_run_state import build_liveness_check, name_warning
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living_lock import LivenessCheck, LivingLock
from airflow_provider_safecopy.lock.model import Contender, Holder, Promise, format_application_name
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.pipeline.batch import OnBusy
from airflow_provider_safecopy.pipeline.outcome import BatchReport, Listener
from airflow_provider_safecopy.pipeline.reap import KEEP_SECONDS, ReapReport, reap
from airflow_provider_safecopy.pipeline.run import name_holders
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.pooler import SharedSessionError
from airflow_provider_safecopy.postgres.session import open_session
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Progress

_CONNECT_SECONDS = 10.0
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

    `psql` is the path of the psql to use; None means ``SAFECOPY_PSQL``, else the one that is found. For locks alone
    there need not be a source: ``SafeCopyHook(target_conn_id="dw")``.

    Not promised: tokens instead of passwords (``iam``) are refused, because they expire while a copy,
    which connects several times, may still run.
    """

    hook_name = "SafeCopy"

    def __init__(self, source_conn_id: str | None = None, target_conn_id: str = "", psql: str | None = None) -> None:
        super().__init__()
        # Of whatever task uses this hook.
        patch_non_latin1_ids()
        self.source_conn_id = source_conn_id
        self.target_conn_id = target_conn_id
        self.psql = psql

    @cached_property
    def source(self) -> Endpoint:
        """Where rows come from. Raises `ConfigError`, or Airflow's own error when there is no such connection."""
        if self.source_conn_id is None:
            raise ConfigError("this hook was given no source", hint="give it a source_conn_id")
        return build_endpoint(self.get_connection(self.source_conn_id))

    @cached_property
    def target(self) -> Endpoint:
        """Where rows go. Raises `ConfigError`, or Airflow's own error when there is no such connection."""
        return build_endpoint(self.get_connection(self.target_conn_id))

    def copy(
        self,
        spec: CopySpec,
        *,
        owner: str = "",
        contender: Contender | None = None,
        judge: LivenessCheck | None = None,
        abort: AbortSwitch | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> CopyReport:
        """Copy as `spec` says and answer what came of it. Raises the errors of `SafeCopyError`'s tree.

        `owner` is recorded with the copy, or `contender`, by which attempts of one run share its locks; `judge` knows
        holders that are gone. Throwing `abort` stops it; `progress` is called from this thread.
        """
        return pipeline.copy(
            self._with_psql(spec),
            self.source,
            self.target,
            owner=owner,
            contender=contender,
            judge=judge,
            abort=abort,
            progress=progress,
        )

    def copy_tables(
        self,
        specs: Sequence[CopySpec],
        *,
        owner: str = "",
        contender: Contender | None = None,
        judge: LivenessCheck | None = None,
        abort: AbortSwitch | None = None,
        progress: Listener | None = None,
        keep_going: bool = False,
        on_busy: OnBusy = "fail",
    ) -> BatchReport:
        """Copy many tables, and answer what came of each; see `pipeline.copy_tables`."""
        return pipeline.copy_tables(
            [self._with_psql(spec) for spec in specs],
            self.source,
            self.target,
            owner=owner,
            contender=contender,
            judge=judge,
            abort=abort,
            progress=progress,
            keep_going=keep_going,
            on_busy=on_busy,
        )

    def plan_tables(self, specs: Sequence[CopySpec]) -> tuple[CopyPlan, ...]:
        """Return what `copy_tables` would do, with reasons and refusals. Nothing is touched."""
        return pipeline.plan_tables([self._with_psql(spec) for spec in specs], self.source, self.target)

    def plan(self, spec: CopySpec) -> CopyPlan:
        """Return what `copy` would do, with its reasons and refusals. Nothing is touched."""
        return pipeline.plan(self._with_psql(spec), self.source, self.target)

    def living_lock(
        self,
        names: str | Iterable[str],
        *,
        contender: Contender | None = None,
        promise: Promise | None = None,
        judge: LivenessCheck | None = None,
    ) -> LivingLock:
        """Locks in the target, not held yet; the schema `safecopy` is made where it is missing.

        Raises `StageError` when the target cannot be reached, `LockStoreError` when this role may not.
        """
        contender = contender or Contender.alone()
        name = format_application_name(contender.attempt)
        with (
            suppress(SharedSessionError),  # a lock works there: its store makes the schema, and sets nothing
            open_session(self.target, application_name=name, connect_timeout=_CONNECT_SECONDS) as session,
            name_holders(session),
        ):
            schema.init(session.connection)
        return LivingLock(names, self.target, contender=contender, promise=promise, judge=judge)

    def lock_store(self, attempt: UUID | None = None) -> PostgresStore:
        """The target's locks themselves, as `attempt` sees them. Connects when first asked; close it after use."""
        return PostgresStore(self.target, attempt=attempt or uuid4(), connect_timeout=_CONNECT_SECONDS)

    def locks(self) -> tuple[Holder, ...]:
        """Every lock that is held in the target, by whom, since when, and when it may be taken."""
        with closing(self.lock_store()) as store:
            return store.read_holders() if self._is_initialised() else ()

    def reap(
        self,
        *,
        dry_run: bool = False,
        overdue: float = 0,
        keep: float = KEEP_SECONDS,
        judge: LivenessCheck | None = None,
    ) -> ReapReport:
        """Take the target's locks from runs that are dead, and clear up after them; see `pipeline.reap`.

        `judge` is by default this Airflow's: runs of its own that are over are dead.
        """
        return reap(self.target, dry_run=dry_run, overdue=overdue, keep=keep, judge=judge or build_liveness_check({}))

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the doctor finds both databases and psql fit for copying, and what it found."""
        from airflow_provider_safecopy import doctor

        checks = doctor.examine(self.source, self.target, psql=self.psql)
        found = [f"{check.name}: {check.outcome}: {check.detail}" for check in checks]
        if (warning := name_warning()) is not None:
            found.append(f"deployment: warning: {warning}")
        return all(check.outcome != "failed" for check in checks), "\n".join(found)

    def _is_initialised(self) -> bool:
        name = format_application_name(uuid4())
        with self.target.connect(application_name=name, connect_timeout=_CONNECT_SECONDS) as connection:
            return schema.is_ready(connection)

    def _with_psql(self, spec: CopySpec) -> CopySpec:
        return replace(spec, psql=spec.psql or self.psql)


def build_endpoint(connection: Connection) -> Endpoint:
    """The endpoint an Airflow connection means; its password is masked in task logs from here on.

    Raises `ConfigError`, naming the connection, for another type of connection and for an unknown extra.
    """
    where = f"connection {connection.conn_id!r}"
    if connection.conn_type != "postgres":
        raise ConfigError(
            f"{where} is of type {connection.conn_type!r}, not 'postgres'",
            hint="SafeCopy copies between PostgreSQL databases: give a connection of type postgres",
        )
    parameters = _read_fields(connection) | _read_extras(connection, where)
    _mask(parameters.get("password"))
    try:
        return Endpoint.from_parameters(parameters)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint or "look at its extra") from error


def _read_fields(connection: Connection) -> dict[str, Any]:
    return {
        "host": connection.host,
        "port": connection.port,
        "dbname": connection.schema,
        "user": connection.login,
        "password": connection.password,
    }


def _read_extras(connection: Connection, where: str) -> dict[str, Any]:
    extra = _parse_extra(connection, where)
    if extra.get("iam"):
        raise ConfigError(
            f"{where} asks for an IAM token, which expires while a copy may still need to connect",
            hint="give SafeCopy a connection with a password, a certificate or a service file",
        )
    return {
        key: _format_for_libpq(value, key, where) for key, value in extra.items() if key not in POSTGRES_HOOK_EXTRAS
    }


def _parse_extra(connection: Connection, where: str) -> dict[str, Any]:
    """Return the extra as Airflow reads it, which masks its secrets; refuse what Airflow would take for empty, sslmode and all."""
    try:
        given = json.loads(connection.extra or "null")
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: its extra is no JSON", hint="mend it, or empty it") from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: its extra must be a JSON object, not a {type(given).__name__}")
    try:
        read: dict[str, Any] = connection.extra_dejson
    except UnicodeError:  # Airflow 2 masks it by a pattern
        raise ConfigError(f"{where}: its extra holds what is no text", hint="mend it, or empty it") from None
    return read


def _format_for_libpq(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool):
        # Libpq says 1 and 0.
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{where}: the extra {key!r} must be a string or a number")


def _mask(password: str | None) -> None:
    """Airflow masks the password itself; in a URL it is spelled otherwise, and that is as secret."""
    if password:
        # What is no text is refused only later.
        text = password.encode(errors="replace")
        for spelling in {quote(text), quote(text, safe=""), quote_plus(text)}:
            mask_secret(spelling)

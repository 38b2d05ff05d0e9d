"""The doctor, which checks all that a copy between two endpoints needs, and touches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

import psycopg

from airflow_provider_safecopy import shortage
from airflow_provider_safecopy.errors import ConfigError, Refusal, SafeCopyError
from airflow_provider_safecopy.lock import schema as lock
from airflow_provider_safecopy.lock.model import format_application_name
from airflow_provider_safecopy.pipeline.planner import check_tls, describe_publications, draft
from airflow_provider_safecopy.planning import preflight
from airflow_provider_safecopy.postgres import memory
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.lookout import lock_wait_error
from airflow_provider_safecopy.postgres.psql import PsqlBinary, find_psql
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.transfer import spool

_CONNECT_SECONDS = 10.0
_PLAN_SECONDS = 60.0
# Long enough to say who holds a table, short enough for a person who waits.
_LOCK_SECONDS = 6.0


@dataclass(frozen=True)
class Check:
    """One check: `detail` says what was found, `hint` what to do about it."""

    name: str
    outcome: Literal["ok", "warning", "failed"]
    detail: str
    hint: str = ""


def examine(
    source: Endpoint | None,
    target: Endpoint | None,
    *,
    spec: CopySpec | None = None,
    psql: str | None = None,
    spool_dir: str | None = None,
) -> tuple[Check, ...]:
    """Check psql, the spool directory and each endpoint given; with `spec`, that copy as well.

    Never raises for what it finds: a check that failed is an answer, and the other checks are still made.
    """
    # Before anything is open, because a copy looks then, too.
    limits = _limits(spec)
    with ExitStack() as stack:
        ours, of_source = _session("source", source, stack)
        theirs, of_target = _session("target", target, stack)
        here = [*limits, *_psql(psql), *_spool(spool_dir)]
        checks = [*here, *of_source, *of_target, *_newest(psql, ours, theirs), *_tls(psql, ours, theirs)]
        found = _lock(theirs) if theirs else ()
        checks += _schema(theirs, found) if theirs else ()
        if ours and theirs:
            checks += _pair(ours, theirs)
            # A plan reads the copy history, which may run the code of another role that owns the schema.
            untrusted = any(refused.code == "untrusted_schema" for refused in found)
            checks += _copy(spec, ours, theirs) if spec and not untrusted else ()
    return tuple(checks)


def _psql(given: str | None) -> Iterator[Check]:
    try:
        binary = find_psql(given)
    except SafeCopyError as error:
        yield Check("psql", "failed", error.message, error.hint)
    else:
        yield Check("psql", "ok", f"psql {binary.major} at {binary.path}")
    try:
        memory.require()
    except ConfigError as error:
        yield Check("memory files", "failed", error.message, error.hint)


def _limits(spec: CopySpec | None) -> list[Check]:
    ok = Check("limits", "ok", "as many files and processes as a copy needs can be opened and started")
    return _failures("limits", shortage.check(lanes=spec.parallel if spec else 1)) or [ok]


def _spool(directory: str | None) -> Iterator[Check]:
    """Yield the checks of the spool directory. Only what stops every copy fails."""
    if failed := _failures("spool directory", spool.find_refusals(directory, needed=1, limit=None)):
        yield from failed
        return
    yield Check("spool directory", "ok", f"{spool.choose_directory(directory)} can be written to")
    # A small copy needs less room than the first file of a large one.
    for narrow in spool.find_refusals(directory, needed=0, limit=None):
        yield Check("spool directory", "warning", narrow.message, "it will do for small tables")


def _session(side: str, endpoint: Endpoint | None, stack: ExitStack) -> tuple[Session | None, list[Check]]:
    if endpoint is None:
        return None, []
    try:
        session = stack.enter_context(
            open_session(
                endpoint,
                application_name=format_application_name(uuid4()),
                connect_timeout=_CONNECT_SECONDS,
                read_only=side == "source",
                lock_wait=_LOCK_SECONDS,
            )
        )
    except SafeCopyError as error:
        return None, [Check(side, "failed", error.message, error.hint)]
    server = session.server
    detail = f"{endpoint}: PostgreSQL {server.version}, database {server.database}, {server.encoding}, as {server.role}"
    wrong = _failures(side, list(preflight.check_server(session, writing=side == "target")))
    return session, [*_check_environment(side, endpoint), Check(side, "ok", detail), *wrong]


def _check_environment(side: str, endpoint: Endpoint) -> Iterator[Check]:
    if endpoint.ignored:
        detail = f"{', '.join(endpoint.ignored)} in the environment: ignored; only the connection says where it goes"
        yield Check(
            f"{side} environment", "warning", detail, "put these settings into the connection, if you need them"
        )


def _newest(given: str | None, *sessions: Session | None) -> Iterator[Check]:
    newest = max((session.server.major for session in sessions if session), default=0)
    binary = _find_psql(given)
    if binary and binary.major < newest:
        detail = f"psql {binary.major} is older than the newest server, {newest}: it will do"
        yield Check("psql version", "warning", detail, "a psql as new as the newest server is better")


def _tls(given: str | None, *sessions: Session | None) -> list[Check]:
    return _failures("psql TLS", list(check_tls(_find_psql(given), *(session for session in sessions if session))))


def _find_psql(given: str | None) -> PsqlBinary | None:
    try:
        return find_psql(given)
    # The check of psql has reported this already.
    except SafeCopyError:
        return None


def _lock(target: Session) -> tuple[Refusal, ...]:
    server = target.server
    return lock.find_refusals(target.connection, role=server.role, may_create=server.may_create)


def _schema(target: Session, found: tuple[Refusal, ...]) -> list[Check]:
    ready = f"{target.server.role} may use the schema safecopy, or make it on the first copy"
    checks = _failures("schema safecopy", found) or [Check("schema safecopy", "ok", ready)]
    if target.server.publications:
        hint = "name the tables to publish instead of all of them, or make the schema safecopy in the subscriber too"
        checks.append(Check("publications", "warning", describe_publications(target.server.publications), hint))
    return checks


def _pair(source: Session, target: Session) -> Iterator[Check]:
    one, other = source.server, target.server
    if one.major == other.major:
        yield Check("majors", "ok", f"both {one.major}: binary can be used for built-in types")
    else:
        yield Check("majors", "ok", f"{one.major} and {other.major}: text will be used")
    # No refusal: most rows have only characters that both encodings know.
    if one.encoding != other.encoding:
        detail = (
            f"{one.encoding} and {other.encoding}: a character the target lacks fails the import and names its line"
        )
        yield Check("encodings", "warning", detail, "nothing is lost: such a copy is refused as a whole")
    else:
        yield Check("encodings", "ok", f"both {one.encoding}")


def _copy(spec: CopySpec, source: Session, target: Session) -> list[Check]:
    try:
        with source.limit_answer(_PLAN_SECONDS), target.limit_answer(_PLAN_SECONDS):
            plan = draft(spec, source, target)
    except psycopg.errors.LockNotAvailable as error:
        late = lock_wait_error(error, "plan", "a table of this copy", source.lookout, target.lookout)
        return [Check("plan", "failed", late.message, "end the session that holds it, or wait for it")]
    except psycopg.Error as error:
        hint = "see whether a table is locked, or a server busy or gone"
        detail = f"a server did not answer all that was asked within {_PLAN_SECONDS:g} s: {describe(error)}"
        return [Check("plan", "failed", detail, hint)]
    decided = [Check("plan", "ok", reason) for reason in plan.reasons]
    warned = [Check("plan", "warning", warning) for warning in plan.warnings]
    return (_failures("plan", plan.refusals) or decided) + warned


def _failures(name: str, refusals: tuple[Refusal, ...] | list[Refusal]) -> list[Check]:
    return [Check(name, "failed", refused.message, refused.hint) for refused in refusals]

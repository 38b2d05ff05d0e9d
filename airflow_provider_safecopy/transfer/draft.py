"""Drafting the plan: look at both ends and decide, touching nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import psycopg

from airflow_provider_safecopy import memory
from airflow_provider_safecopy.diagnosis import describe
from airflow_provider_safecopy.errors import ConfigError, Refusal
from airflow_provider_safecopy.transfer import (
    aftermath,
    catalog,
    choice,
    creation,
    drift,
    guard,
    mismatch,
    pages,
    refusal,
    shape,
    spool,
    statements,
)
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.key import paired_by
from airflow_provider_safecopy.transfer.ledger import Ledger, look_up
from airflow_provider_safecopy.transfer.match import Match
from airflow_provider_safecopy.transfer.model import Extent, MiB, Way
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.psql import LOCKED, PsqlBinary, find
from airflow_provider_safecopy.transfer.session import Session, SettingsChangedError
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.ways import WAYS

SMALL_BYTES = 16 * MiB
"""Up to here `transfer="auto"` is sequential: the file is small, and the second psql may start late."""

_LOST = "08"
# Classes of SQLSTATE that say nothing of the SQL: a lost connection, a cancelled statement, a server in need.
_NOT_ITS_FAULT = frozenset({_LOST, "40", "53", "57", "58", "XX"})


def draft(
    spec: CopySpec, source: Session, target: Session, *, extent: Extent = "any", telling: bool = True
) -> CopyPlan:
    """Look at both ends and decide. Reads only. What is wrong with the copy becomes `refusals`.

    `extent` of a table that is one of many is what ``publish="auto"`` takes into account. Without `telling` the plan is
    to be carried out and not shown: it does not spell out how it will publish.
    """
    refusals = [
        *refusal.of_server(source, writing=False),
        *refusal.of_server(target, writing=True),
    ]
    given = _source(spec, source, refusals)
    there = _relation(target, spec.target_table, refusals, missing_is_wrong=not spec.create_target)
    match = _match(spec, source, target, (given, there), refusals)
    taken, pairs = match.relation, match.pairs
    if given:
        refusals += refusal.of_source(source, given)
    if there:
        refusals += refusal.of_target(target, there)
    publish, why_publish = choice.choose(spec, target, there, refusals, extent=extent)
    if given and taken:
        refusals += mismatch.of_pairs(pairs, source, target, (given, taken))
        refusals += guard.refusals(spec, taken.label, [column.name for _, column in pairs])
        if source.server.identity == target.server.identity and given.oid == taken.oid:
            message = f"{taken.label}: source and target are the same table"
            refusals.append(Refusal("onto_itself", message, taken.label, hint="name another table, or another target"))
    ledger = look_up(spec, (source, target), (given, taken), pairs, refusals) if given else None
    rows, size = _expect(spec, source, given, pairs, refusals, ledger=ledger)
    format_, why_format = _format(spec, source, target, pairs, refusals)
    transfer, why_transfer = _transfer(spec, given, size)
    lanes, why_lanes = pages.decide(spec, source, given, size, refusals, transfer=transfer, publish=publish)
    binary = _psql(spec, refusals)
    refusals += _spool(spec, transfer, size)
    plan = CopyPlan(
        spec=spec,
        source=f"{source.endpoint} {given.label if given else spec.source_table or 'the query'}",
        target=f"{target.endpoint} {taken.label if taken else spec.target_table}",
        source_relation=given,
        target_relation=taken,
        pairs=pairs,
        format=format_,
        transfer=transfer,
        publish=publish,
        psql=binary,
        expected_rows=rows,
        expected_bytes=size,
        reasons=(
            why_format,
            why_transfer,
            *why_lanes,
            *why_publish,
            *mismatch.widened(pairs),
            *(ledger.reasons if ledger else ()),
            *guard.told(spec),
        ),
        warnings=(
            *_warnings(binary, source, target),
            *_warnings_of_way(publish, there),
            *match.warnings,
            *(ledger.warnings if ledger else ()),
        ),
        refusals=tuple(refusals),
        ledger=ledger,
        lanes=lanes,
        hidden_from=target.server.grantees,
        definition=match.definition,
        key=paired_by(spec, target, there, publish),
    )
    views = aftermath.views(target, plan.target_name) if spec.refresh_views and there else ()
    stale = aftermath.warnings(target.server.role, views)
    plan = dataclasses.replace(plan, warnings=(*plan.warnings, *_since(plan, target), *stale))
    refusals += refusal.check_text_size(statements.export_copy(plan.read(), format=plan.format)) if given else ()
    if refusals or not telling:
        return dataclasses.replace(plan, refusals=tuple(refusals))
    after = aftermath.steps(publish, plan.target_name, views)
    return dataclasses.replace(plan, publishing=(*drift.steps(plan), *WAYS[publish].steps(plan, target), *after))


def _relation(
    session: Session, name: TableName, refusals: list[Refusal], *, missing_is_wrong: bool = True
) -> Relation | None:
    if wrong := list(refusal.of_name(session, name)):
        refusals += wrong
        return None
    found = catalog.describe(session, name)
    if found is None and missing_is_wrong:
        refusals.append(refusal.of_missing(session, name))
    return found


def _source(spec: CopySpec, session: Session, refusals: list[Refusal]) -> Relation | None:
    if spec.source_table is not None:
        return _relation(session, spec.source_table, refusals)
    try:
        return catalog.describe_query(session, spec.source_sql or "")
    except SettingsChangedError as error:
        refusals.append(refusal.changed_settings("source_sql", session, error.names))
        return None
    except psycopg.Error as error:
        refusals.append(_bad_sql("source_sql", session, error))
        return None


def _match(
    spec: CopySpec,
    source: Session,
    target: Session,
    relations: tuple[Relation | None, Relation | None],
    refusals: list[Refusal],
) -> Match:
    given, there = relations
    if given and there:
        return drift.match(spec, source, target, (given, there), refusals)
    if given and spec.create_target and not any(refusal.of_name(target, spec.target_table)):
        return creation.match(spec, source, target, given, refusals)
    return Match(relation=there)


def _since(plan: CopyPlan, target: Session) -> tuple[str, ...]:
    """What has become of the source since the last copy of it into this target."""
    if plan.shape is None or not (seen := shape.last(target, source=plan.source, target=plan.target_name)):
        return ()
    return tuple(seen.told(plan.shape, plan.target_name))


def _expect(
    spec: CopySpec,
    session: Session,
    given: Relation | None,
    pairs: tuple[tuple[Column, Column], ...],
    refusals: list[Refusal],
    *,
    ledger: Ledger | None,
) -> tuple[int | None, int | None]:
    readable = given and given.may_enter and given.may_select and not given.filtered
    if given is None or not readable or not all(column.may_select for column, _ in pairs):
        return None, None  # refused already, for a better reason than the server would give
    columns = [column.name for column, _ in pairs]
    bounds = ledger.bounds.condition() if ledger and ledger.bounds else None
    read_from, option = given.name or spec.source_sql or "", "where" if spec.where else given.label
    query = statements.select(columns, read_from, spec.where, bounds)
    try:
        with session.reading():
            if spec.where is not None:  # it must be a complete condition, and not only fit between our parentheses
                session.one(statements.explain(statements.check_where(read_from, spec.where)))
            node = session.value(statements.explain(query))[0]["Plan"]
            empty = given.kind in "rpm" and spec.fewest_rows > 0 and not session.value(statements.any_row(query))
    except SettingsChangedError as error:
        refusals.append(refusal.changed_settings(option, session, error.names))
        return None, None
    except psycopg.Error as error:
        refusals.append(_bad_sql(option, session, error))
        return None, None
    if empty:
        refusals.append(guard.empty(spec, given.label))
    # Text is wider than the planner's idea of it by separators and escapes; this is a guess for a progress bar.
    return node["Plan Rows"], node["Plan Rows"] * (node["Plan Width"] + len(columns))


def _bad_sql(option: str, session: Session, error: psycopg.Error) -> Refusal:
    """Why the server will not run it. Raises the error itself where the SQL is not to blame."""
    if (error.sqlstate or _LOST)[:2] in _NOT_ITS_FAULT or error.sqlstate == LOCKED:
        raise error
    unknown = error.sqlstate in {"42P01", "42883", "42704"}
    hint = (
        "give names their schema: SafeCopy runs with search_path = pg_catalog" if unknown else "check it on the source"
    )
    return Refusal(
        "bad_sql", f"{option}: {session.endpoint} cannot run it: {describe(error)} [{error.sqlstate}]", hint=hint
    )


def _format(
    spec: CopySpec, source: Session, target: Session, pairs: tuple[tuple[Column, Column], ...], refusals: list[Refusal]
) -> tuple[Literal["text", "binary"], str]:
    unsafe = next((taken for given, taken in pairs if not _binary_safe(given, taken)), None)
    if spec.format == "binary" and unsafe is not None:
        message = f"format=binary: {unsafe.type} of column {unsafe.name} is not the same in binary on both sides"
        refusals.append(Refusal("binary_unsafe", message, column=unsafe.name, hint="ask for format=auto or text"))
    if spec.format != "auto":
        return spec.format, f"format {spec.format}: asked for"
    if other := next(((given, taken) for given, taken in pairs if given.type != taken.type), None):
        given, taken = other
        return "text", f"format text: column {taken.name} is {taken.type}, and {given.type} in the source"
    if source.server.major != target.server.major:
        return "text", f"format text: the servers' majors differ ({source.server.major} and {target.server.major})"
    if unsafe is not None:
        return "text", f"format text: {unsafe.type} of column {unsafe.name} is not the same in binary on both sides"
    return "binary", f"format binary: same major ({source.server.major}), built-in types only"


def _binary_safe(given: Column, taken: Column) -> bool:
    return given.binary_safe and taken.binary_safe and given.type == taken.type


def _transfer(spec: CopySpec, given: Relation | None, size: int | None) -> tuple[Literal["sequential", "chunked"], str]:
    if spec.transfer != "auto":
        return spec.transfer, f"transfer {spec.transfer}: asked for"
    if given is None or given.kind not in "rpm" or size is None:
        return "chunked", "transfer chunked: nobody knows the size beforehand"
    if size <= SMALL_BYTES:
        return "sequential", f"transfer sequential: small, about {size / MiB:.1f} MiB"
    return "chunked", f"transfer chunked: about {size / MiB:,.0f} MiB"


def _psql(spec: CopySpec, refusals: list[Refusal]) -> PsqlBinary | None:
    try:
        memory.require()
    except ConfigError as error:
        refusals.append(Refusal("no_memory_file", error.message, hint=error.hint))
    try:
        return find(spec.psql)
    except ConfigError as error:
        refusals.append(Refusal("psql", error.message, hint=error.hint))
        return None


def _spool(spec: CopySpec, transfer: str, size: int | None) -> list[Refusal]:
    needed = (size or 0) if transfer == "sequential" else 0
    if spec.where is not None or spec.source_sql is not None:
        needed = 0  # the guess is too rough to refuse by
    return spool.refusals(spec.spool_dir, needed=needed, limit=spec.spool_limit)


def _warnings(binary: PsqlBinary | None, source: Session, target: Session) -> list[str]:
    found, newest = [], max(source.server.major, target.server.major)
    if binary and binary.major < newest:
        found.append(f"psql {binary.major} is older than the server ({newest}); it will do, a newer one is better")
    if ignored := sorted({*source.endpoint.ignored, *target.endpoint.ignored}):
        found.append(f"{', '.join(ignored)} in the environment: ignored; only the connection says where it goes")
    if target.server.publications:
        found.append(describe_publications(target.server.publications))
    return found


def describe_publications(publications: tuple[str, ...]) -> str:
    """Return the warning about publications that send the schema safecopy to subscribers."""
    return (
        f"the target publishes the tables of the schema safecopy by {', '.join(map(spell, publications))}: a subscriber "
        "without them stops at the first copy; name the tables to publish, or make the schema safecopy there too"
    )


def _warnings_of_way(way: Way, relation: Relation | None) -> Iterator[str]:
    """Yield warnings about what a way to publish does."""
    if relation and way == "delete_insert" and relation.referenced_by:
        yield f"{relation.label} is referenced by {', '.join(relation.referenced_by)}: publishing fails while rows refer to it"
    if relation and way == "swap" and relation.triggers:
        named = ", ".join(map(spell, relation.triggers))
        yield f"{relation.label}: its triggers do not fire in a swap ({named}); ask for publish=delete_insert if they must"

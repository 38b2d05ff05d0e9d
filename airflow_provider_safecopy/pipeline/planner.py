"""Planning one copy, or all of a batch: read both ends, or one bulk catalog, and decide; nothing is touched.

Drafting the plan: look at both ends and decide, touching nothing.

Each check returns a `Finding`; the plan joins them, in the order in which people read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import psycopg

from airflow_provider_safecopy import shortage
from airflow_provider_safecopy.errors import ConfigError, PlanError, Refusal, StageError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.planning import (
    column_match,
    copy_script,
    create_table,
    large_object,
    own_path,
    preflight,
    row_checks,
    source_schema,
)
from airflow_provider_safecopy.planning import history as planning_history
from airflow_provider_safecopy.planning import page_ranges as planning_page_ranges
from airflow_provider_safecopy.planning.bulk_catalog import Catalog, Tables, at_least, read_catalog, read_one
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.planning.column_match import ColumnMatch, ColumnPair
from airflow_provider_safecopy.planning.exchange import name_exchanges
from airflow_provider_safecopy.planning.finding import Finding, join, refuse
from airflow_provider_safecopy.planning.history import CopyHistory, HistoryInput
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.planning.row_checks import Estimate
from airflow_provider_safecopy.planning.source_identity import (
    build_source_identity,
    identify_copy,
    read_basis,
    read_cluster_identity,
)
from airflow_provider_safecopy.planning.target_table import TargetTable, find_pairing_key
from airflow_provider_safecopy.postgres import memory, statements
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.psql import PsqlBinary, find_psql, has_tls
from airflow_provider_safecopy.postgres.session import Session, SettingsChangedError
from airflow_provider_safecopy.publish import maintenance, schema_drift, strategy_choice
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.spec import CopySpec, MiB, Strategy
from airflow_provider_safecopy.transfer import spool


@dataclass(frozen=True)
class Ends:
    """Both ends: `source` is the source, `target` the target as it is; None where there is none."""

    source: Relation | None
    target: TargetTable | None
    match: ColumnMatch


def check_ends(spec: CopySpec, source: Session, target: Session, known: Catalog) -> Finding[Ends]:
    """Match the columns of both ends, and refuse what can be no source or no target."""
    servers = refuse([*preflight.check_server(source, writing=False), *preflight.check_server(target, writing=True)])
    given = _source(spec, source, known.source.tables)
    if given.value:
        given = dataclasses.replace(given, value=own_path.with_schemas(source, given.value))
    there = known.target.tables[spec.target_table]
    match = Finding(ColumnMatch(relation=there.value))
    blueprint = known.blueprints.get(given.value.oid) if given.value else None
    if given.value and there.value:
        match = schema_drift.match(spec, source, target, (given.value, there.value), blueprint)
    elif given.value and spec.create_target and not there.refusals:
        match = create_table.match(spec, source, target, given.value, blueprint)
    readable = refuse(preflight.check_source(source, given.value) if given.value else ())
    writable = refuse(preflight.check_target(target, there.value) if there.value else ())
    table = TargetTable(target, there.value, known.target.facts.get(there.value.oid)) if there.value else None
    said = join(servers, given, there, match, readable, writable)
    return Finding(Ends(given.value, table, match.value), said.refusals, warnings=said.warnings)


def _source(spec: CopySpec, session: Session, tables: Tables) -> Finding[Relation | None]:
    """Return the table or the query to read from, or None and why it cannot be read."""
    if spec.source_table is not None:
        return tables[spec.source_table]
    try:
        return Finding(own_path.describe_query(session, spec.source_sql or ""))
    except SettingsChangedError as error:
        return Finding(None, (preflight.refuse_changed_settings("source_sql", session, error.names),))
    except psycopg.Error as error:
        return Finding(None, (preflight.refuse_bad_sql("source_sql", session, error),))


_TLS_DEMANDED = frozenset({"require", "verify-ca", "verify-full"})
SMALL_BYTES = 16 * MiB
"""Up to here `transfer="auto"` is sequential: the file is small, and the second psql may start late."""


@dataclass(frozen=True)
class TransferMethod:
    """The format, the transfer and the psql by which the rows travel."""

    format: Literal["text", "binary"]
    transfer: Literal["sequential", "chunked"]
    page_ranges: planning_page_ranges.PageRanges
    psql: PsqlBinary | None


def choose_method(
    spec: CopySpec,
    sessions: tuple[Session, Session],
    source_relation: Relation | None,
    pairs: tuple[ColumnPair, ...],
    *,
    size: int | None,
    publish: Strategy,
) -> Finding[TransferMethod]:
    """Decide how about `size` bytes travel, and check what this machine needs for it. `sessions`: source and target."""
    source, target = sessions
    format_, transfer = _choose_format(spec, source, target, pairs), _choose_transfer(spec, source_relation, size)
    needed = _estimate_spool(spec, transfer.value, size)
    binary = _find_psql(spec)
    lanes = planning_page_ranges.choose_page_ranges(
        spec, source, source_relation, size, transfer=transfer.value, publish=publish
    )
    room = refuse(spool.find_refusals(spec.spool_dir, needed=needed, limit=spec.spool_limit))
    said = join(format_, transfer, lanes, binary, refuse(check_tls(binary.value, *sessions)), room)
    manner = TransferMethod(format_.value, transfer.value, lanes.value, binary.value)
    return Finding(manner, said.refusals, said.reasons, tuple(_find_warnings(binary.value, source, target)))


def _choose_format(
    spec: CopySpec, source: Session, target: Session, pairs: tuple[ColumnPair, ...]
) -> Finding[Literal["text", "binary"]]:
    unsafe = next((taken for given, taken in pairs if not _is_binary_safe(given, taken)), None)
    if spec.format != "auto":
        why = (f"format {spec.format}: asked for",)
        if spec.format == "text" or unsafe is None:
            return Finding(spec.format, reasons=why)
        message = f"format=binary: {unsafe.type} of column {unsafe.name} is not the same in binary on both sides"
        wrong = Refusal("binary_unsafe", message, column=unsafe.name, hint="ask for format=auto or text")
        return Finding(spec.format, (wrong,), why)
    why_text = _explain_text(source, target, pairs, unsafe)
    if why_text is not None:
        return Finding("text", reasons=(f"format text: {why_text}",))
    return Finding("binary", reasons=(f"format binary: same major ({source.server.major}), built-in types only",))


def _explain_text(source: Session, target: Session, pairs: tuple[ColumnPair, ...], unsafe: Column | None) -> str | None:
    """Return why binary will not do; None if it will."""
    if other := next(((given, taken) for given, taken in pairs if given.type != taken.type), None):
        given, taken = other
        return f"column {taken.name} is {taken.type}, and {given.type} in the source"
    if source.server.major != target.server.major:
        return f"the servers' majors differ ({source.server.major} and {target.server.major})"
    if unsafe is None:
        return None
    return f"{unsafe.type} of column {unsafe.name} is not the same in binary on both sides"


def _is_binary_safe(source_column: Column, target_column: Column) -> bool:
    return source_column.binary_safe and target_column.binary_safe and source_column.type == target_column.type


def _choose_transfer(
    spec: CopySpec, source_relation: Relation | None, size: int | None
) -> Finding[Literal["sequential", "chunked"]]:
    if spec.transfer != "auto":
        return Finding(spec.transfer, reasons=(f"transfer {spec.transfer}: asked for",))
    if source_relation is None or source_relation.kind not in "rpm" or size is None:
        return Finding("chunked", reasons=("transfer chunked: the size is unknown beforehand",))
    if size <= SMALL_BYTES:
        return Finding("sequential", reasons=(f"transfer sequential: small, about {size / MiB:.1f} MiB",))
    return Finding("chunked", reasons=(f"transfer chunked: about {size / MiB:,.0f} MiB",))


def _find_psql(spec: CopySpec) -> Finding[PsqlBinary | None]:
    try:
        memory.require()
        able: tuple[Refusal, ...] = ()
    except ConfigError as error:
        able = (Refusal("no_memory_file", error.message, hint=error.hint),)
    try:
        return Finding(find_psql(spec.psql), able)
    except ConfigError as error:
        return Finding(None, (*able, Refusal("psql", error.message, hint=error.hint)))
    except StageError as error:
        if error.__cause__ is None or (short := shortage.find(error.__cause__, starting=True)) is None:
            raise
        return Finding(None, (*able, short))


def _estimate_spool(spec: CopySpec, transfer: str, size: int | None) -> int:
    """Return how many bytes the spool file of a sequential copy will have; 0 where the guess is too rough to refuse by."""
    if transfer != "sequential" or spec.where is not None or spec.source_sql is not None:
        return 0
    return size or 0


def _find_warnings(binary: PsqlBinary | None, source: Session, target: Session) -> list[str]:
    found, newest = [], max(source.server.major, target.server.major)
    if binary and binary.major < newest:
        found.append(f"psql {binary.major} is older than the server ({newest}); it will do, a newer one is better")
    open_ends = [each for each in (source, target) if each.connection.pgconn.ssl_in_use]
    if binary and open_ends and not has_tls(binary):
        named = ", ".join(str(each.endpoint) for each in open_ends)
        found.append(f"{named}: rows travel unencrypted: {binary.path} was built without TLS")
    if ignored := sorted({*source.endpoint.ignored, *target.endpoint.ignored}):
        found.append(f"{', '.join(ignored)} in the environment: ignored; only the connection says where it goes")
    if target.server.publications:
        found.append(describe_publications(target.server.publications))
    return found


def check_tls(binary: PsqlBinary | None, *sessions: Session) -> Iterator[Refusal]:
    """Yield a refusal for each server that must be reached by TLS, where psql has none."""
    for session in sessions:
        if binary and session.endpoint.parameters.get("sslmode") in _TLS_DEMANDED and not has_tls(binary):
            message = f"{session.endpoint}: the connection demands TLS, and {binary.path} was built without it"
            yield Refusal("psql", message, hint="install the distribution's psql, or name one in SAFECOPY_PSQL")


def describe_publications(publications: tuple[str, ...]) -> str:
    """Return the warning about publications that send the schema safecopy to subscribers."""
    return (
        f"the target publishes the tables of the schema safecopy by {', '.join(map(spell, publications))}: a subscriber "
        "without them stops at the first copy; name the tables to publish, or make the schema safecopy there too"
    )


@dataclass(frozen=True)
class Content:
    """Earlier copies (None where nothing can be known), the size that the source is expected to give, and the strategy."""

    ledger: CopyHistory | None
    expected: Estimate
    publish: Strategy


def weigh(spec: CopySpec, source: Session, target: Session, found: Finding[Ends], known: Catalog) -> Finding[Content]:
    """Choose the publish strategy, check the pairs, and find out what the source will give."""
    ends = found.value
    given, there, taken, pairs = ends.source, ends.target, ends.match.relation, ends.match.pairs
    extent = known.target.extents.get(there.relation.oid, "any") if there else "any"
    earlier = known.earlier.get(spec.target_table)
    former = earlier.history if earlier and not earlier.refusals else None
    publish = strategy_choice.choose(spec, there, extent)
    both = (given, taken) if given and taken else None
    paired = refuse(column_match.check_pairs(pairs, source, target, both) if both else ())
    guarded = row_checks.check(spec, taken.label if both and taken else None, [column.name for _, column in pairs])
    same = refuse(_onto_itself(source, target, both) if both else ())
    blocked = bool(join(found, publish, paired, guarded, same).refusals)
    history: Finding[CopyHistory | None] = Finding(None)
    if given:
        origin = build_source_identity(spec, source, known.source.system or read_cluster_identity(source), given, pairs)
        basis = known.source.bases.get(given.oid) or read_basis(source, given)
        before = HistoryInput(
            identify_copy(spec, target, origin, basis), known.target.readable, former, blocked, known.lookbacks
        )
        history = planning_history.read_copy_history(spec, (source, target), taken, pairs, before)
    bounds = history.value.read_range if history.value else None
    expected = row_checks.estimate(spec, source, given, pairs, bounds, earlier=earlier)
    if (actual := at_least(extent, expected.value.rows, expected.value.size)) != extent:
        publish = strategy_choice.choose(spec, there, actual)
    refusals = join(publish, paired, guarded, same, history, expected).refusals
    reasons = (*publish.reasons, *column_match.explain_widening(pairs), *history.reasons, *guarded.reasons)
    return Finding(Content(history.value, expected.value, publish.value), refusals, reasons, history.warnings)


def _onto_itself(source: Session, target: Session, relations: tuple[Relation, Relation]) -> Iterator[Refusal]:
    given, taken = relations
    if source.server.identity == target.server.identity and given.oid == taken.oid:
        message = f"{taken.label}: source and target are the same table"
        yield Refusal("onto_itself", message, taken.label, hint="name another table, or another target")


def draft(
    spec: CopySpec, source: Session, target: Session, catalog: Catalog | None = None, *, telling: bool = True
) -> CopyPlan:
    """Look at both ends and decide. Reads only. What is wrong with the copy becomes `refusals`.

    `catalog` is what a batch has read of both ends. Without `telling` the plan is to be carried out and not shown: it does
    not spell out how it will publish.
    """
    known = catalog or read_one(source, target, spec)
    ends = check_ends(spec, source, target, known)
    content = weigh(spec, source, target, ends, known)
    given, match, publish = ends.value.source, ends.value.match, content.value.publish
    manner = choose_method(
        spec, (source, target), given, match.pairs, size=content.value.expected.size, publish=publish
    )
    warnings = *_warn_of_strategy(publish, ends.value.target), *large_object.warnings(source, match.pairs)
    of_way = Finding(None, warnings=warnings)
    plan = CopyPlan(
        spec=spec,
        source=f"{source.endpoint} {given.label if given else spec.source_table or 'the query'}",
        target=f"{target.endpoint} {match.relation.label if match.relation else spec.target_table}",
        source_relation=given,
        target_relation=match.relation,
        pairs=match.pairs,
        format=manner.value.format,
        transfer=manner.value.transfer,
        publish=publish,
        psql=manner.value.psql,
        expected_rows=content.value.expected.rows,
        expected_bytes=content.value.expected.size,
        reasons=join(manner, content).reasons,
        warnings=join(manner, of_way, ends, content).warnings,
        refusals=join(ends, content, manner).refusals,
        history=content.value.ledger,
        page_ranges=manner.value.page_ranges,
        hidden_from=target.server.grantees,
        definition=match.definition,
        key=find_pairing_key(spec, ends.value.target, publish),
    )
    return _complete_plan(plan, target, ends.value, known, telling=telling)


def _complete_plan(plan: CopyPlan, target: Session, ends: Ends, known: Catalog, *, telling: bool) -> CopyPlan:
    """Return the plan with what depends on the whole of it; if it is to be shown, with how it will publish."""
    views = maintenance.views(target, plan.target_name) if plan.spec.refresh_views and ends.target else ()
    warnings = (
        *plan.warnings,
        *_describe_changes(plan, target, known),
        *maintenance.warnings(target.server.role, views),
    )
    copied = copy_script.export_copy(plan.build_copy_source(), format=plan.format) if ends.source else None
    refusals = (*plan.refusals, *(preflight.check_text_size(copied) if copied else ()))
    plan = dataclasses.replace(plan, warnings=warnings, refusals=refusals)
    if refusals or not telling:
        return plan
    after = maintenance.steps(plan.publish, plan.target_name, views)
    publishing = (*schema_drift.steps(plan), *STRATEGIES[plan.publish].list_steps(plan, target), *after)
    return dataclasses.replace(plan, publish_steps=publishing)


def _describe_changes(plan: CopyPlan, target: Session, known: Catalog) -> tuple[str, ...]:
    """Return what has become of the source since the last copy of it into this target."""
    if plan.source_schema is None:
        return ()
    names = plan.source, plan.target_name
    shapes = known.target.shapes
    seen = (
        shapes[names]
        if names in shapes
        else source_schema.read_last_schema(target, source=plan.source, target=plan.target_name)
    )
    return tuple(seen.list_warnings(plan.source_schema, plan.target_name)) if seen else ()


def _warn_of_strategy(way: Strategy, table: TargetTable | None) -> Iterator[str]:
    """Yield warnings about what a way to publish does."""
    relation = table.relation if table else None
    if relation and way == "delete_insert" and relation.referenced_by:
        yield f"{relation.label} is referenced by {', '.join(relation.referenced_by)}: publishing fails while rows refer to it"
    if relation and way == "swap" and relation.triggers:
        named = ", ".join(map(spell, relation.triggers))
        yield f"{relation.label}: its triggers do not fire in a swap ({named}); ask for publish=delete_insert if they must"


CARRIED_BYTES = SMALL_BYTES
"""What a shuttle carries at most; a larger table goes the ordinary way."""

# What a shuttle can publish: staging tables of a plain kind are enough for these.
_CARRIED = frozenset({"delta", "delete_insert", "truncate_insert", "insert", "upsert"})
_SEQUENTIAL = "transfer sequential: small, carried by psql sessions that stay for all small tables"


@dataclass(frozen=True)
class BatchPlanner:
    """Drafts plans of copies from `source` into `target`, with `telling` to be shown.

    What a planner expects of a table's rows is asked once for two plans; the catalog is read anew for each.
    """

    source: Session
    target: Session
    telling: bool = False
    earlier: dict[TableName, CopyPlan] = field(default_factory=dict)

    def plan_all(self, specs: Sequence[CopySpec]) -> list[CopyPlan]:
        """The plans, refusals included, of a number of tables that is bounded: all answers are kept meanwhile."""
        server = self.target.server
        found = schema.find_refusals(self.target.connection, role=server.role, may_create=server.may_create)
        if any(refused.code == "untrusted_schema" for refused in found):
            # A plan would read the ledger.
            raise PlanError(found)
        catalog = read_catalog(self.source, self.target, specs, self.earlier)
        plans = list[CopyPlan]()
        for spec in specs:
            plans.append(self._plan_one(spec, catalog, found))
            catalog = catalog.with_plan(plans[-1])
        self._remember(plans)
        return plans

    def confirm_all(self, specs: Sequence[CopySpec]) -> list[CopyPlan]:
        """Return the plans as `plan_all` does; those that are refused are planned once more.

        A table that is exchanged while its catalog is read seems to have no columns or pages.
        """
        plans = self.plan_all(specs)
        refused = [plan.spec for plan in plans if plan.refusals]
        again = iter(self.plan_all(refused) if refused else ())
        ends = self.source, self.target
        return [name_exchanges(plan, next(again), *ends) if plan.refusals else plan for plan in plans]

    def _remember(self, plans: Sequence[CopyPlan]) -> None:
        """Keep first plans for the second plan of each table; after that all is asked again."""
        for plan in plans:
            if self.earlier.pop(plan.spec.target_table, None) is None:
                self.earlier[plan.spec.target_table] = plan

    def _plan_one(self, spec: CopySpec, catalog: Catalog, found: tuple[Refusal, ...]) -> CopyPlan:
        plan = draft(spec, self.source, self.target, catalog, telling=self.telling)
        return as_carried(replace(plan, refusals=plan.refusals + found))


def fits(plan: CopyPlan) -> bool:
    """Return whether a shuttle can carry it."""
    spec = plan.spec
    return (
        plan.publish in _CARRIED
        and plan.transfer == "sequential"
        and plan.definition is None
        and plan.page_ranges == (None,)
        and not plan.source_schemas
        and spec.rate_limit is None
        and not spec.refresh_views
        and plan.expected_bytes is not None
        and plan.expected_bytes <= CARRIED_BYTES
        and _is_plain(plan)
    )


def _is_plain(plan: CopyPlan) -> bool:
    """Return whether both scripts of a shuttle are plain: psql could interpret nothing in them."""
    columns = [(taken.name, taken.type) for _, taken in plan.pairs]
    texts = plan.build_copy_source(), statements.create_staging(plan.target_name, columns)
    return all(copy_script.is_plain(copy_script.plain_names(text)) for text in texts)


def as_carried(plan: CopyPlan) -> CopyPlan:
    """A view's size is only guessed; a shuttle finds out before it is too late."""
    guessed = plan.transfer == "chunked" and plan.spec.transfer == "auto"
    if not guessed or not fits(replace(plan, transfer="sequential")):
        return plan
    reasons = tuple(_SEQUENTIAL if reason.startswith("transfer chunked") else reason for reason in plan.reasons)
    return replace(plan, transfer="sequential", reasons=reasons)

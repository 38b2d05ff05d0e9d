"""The plan: every decision of a copy with its reasons, made before anything is touched. It can be printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from psycopg.sql import SQL, Composed

from airflow_provider_safecopy.display import align_facts, escape, format_count, format_size, reason_facts
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.planning.history import CopyHistory
from airflow_provider_safecopy.planning.keys import Key
from airflow_provider_safecopy.planning.page_ranges import PageRange
from airflow_provider_safecopy.planning.source_schema import SourceSchema
from airflow_provider_safecopy.planning.table_definition import Definition
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import PsqlBinary
from airflow_provider_safecopy.postgres.statements import together
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Strategy

STAGING = TableName("safecopy", "…__safecopy_<token>_<attempt>")


@dataclass(frozen=True)
class PlannedStep:
    """One statement of the plan: its stage, its database, and the strongest lock it takes there."""

    stage: str
    database: Literal["source", "target"]
    sql: str
    lock: str


@dataclass(frozen=True, repr=False)
class CopyPlan:
    """The decisions of a copy, or why it is refused. Only a plan without `refusals` can be carried out.

    `str(plan)` is the plan as people read it: decisions, reasons, the exact SQL and its locks.

    `expected_rows` and `expected_bytes` are the source planner's guess, None without one. `publish_steps` is what the
    chosen publish strategy will do, if the plan is to be shown. `history` is what is known of earlier copies, None
    where nothing can be. `definition` is the target, or the columns of it, to be created first. `key` is what rows are
    paired by, None where they are not. `page_ranges` are read side by side, each with the whole source (None) or some
    of its pages. `hidden_from` are roles that could read staging by default privileges.
    """

    spec: CopySpec
    source: str
    target: str
    source_relation: Relation | None
    target_relation: Relation | None
    pairs: tuple[tuple[Column, Column], ...]
    format: Literal["text", "binary"]
    transfer: Literal["sequential", "chunked"]
    publish: Strategy
    psql: PsqlBinary | None
    expected_rows: int | None
    expected_bytes: int | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    publish_steps: tuple[PlannedStep, ...] = ()
    definition: Definition | None = None
    key: Key | None = None
    history: CopyHistory | None = None
    page_ranges: tuple[PageRange | None, ...] = (None,)
    hidden_from: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = "refused" if self.refusals else "planned"
        facts = [*self._facts(), *self._refusal_facts()]
        return "\n".join([f"{head}: nothing was touched", *align_facts(facts), *_format_steps(self.steps())])

    def __repr__(self) -> str:
        # One short line: tracebacks and logs print reprs, and the SQL of a plan is long.
        found = ", ".join(refused.code for refused in self.refusals)
        outcome = f"refused: {found}" if found else f"{self.transfer}, {self.format}, {self.publish}"
        return f"<CopyPlan {self.source} -> {self.target}: {outcome}>"

    @property
    def is_frozen(self) -> bool:
        """True if rows are loaded frozen, visible to every snapshot, as a swap needs them."""
        return self.publish == "swap"

    @property
    def lock(self) -> str:
        """The name of the lock this run holds."""
        return self.spec.lock or str(self.target_name)

    @property
    def target_name(self) -> TableName:
        """The target table, with its schema once that is known."""
        found = self.target_relation and self.target_relation.name
        return found or self.spec.target_table

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The columns that are read, in the order of transfer."""
        return tuple(given.name for given, _ in self.pairs)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The columns that are written, in the order of transfer."""
        return tuple(taken.name for _, taken in self.pairs)

    @property
    def keeps_identity(self) -> bool:
        """True if an identity column takes the source's values."""
        return any(taken.identity for _, taken in self.pairs)

    def build_query(self, page_range: PageRange | None = None) -> Composed:
        """Compose the query of the rows to export: all, or those in `page_range`."""
        found = self.source_relation and self.source_relation.name
        bounds = self.history.read_range.condition() if self.history and self.history.read_range else None
        within = None if page_range is None else statements.in_pages(page_range.first, page_range.end)
        return statements.select(
            self.source_columns, found or self.spec.source_sql or "", self.spec.where, bounds, within
        )

    def build_copy_source(self, page_range: PageRange | None = None) -> Composed:
        """Compose what COPY reads: the table itself, or a query."""
        found, narrowed = (
            self.source_relation,
            self.spec.where or (self.history and self.history.read_range) or page_range,
        )
        # COPY of the table as it is stored costs a fourteenth less than COPY of a query. It cannot filter rows, leaves
        # out those of partitions and children, and takes no generated column.
        plain = found is not None and found.kind == "r" and not found.has_children and self.pairs
        if (
            found is None
            or found.name is None
            or narrowed
            or not plain
            or any(given.generated for given, _ in self.pairs)
        ):
            return statements.subquery(self.build_query(page_range))
        return statements.columns_of(found.name, self.source_columns)

    def build_insert(self, staging: TableName = STAGING) -> Composed:
        """Compose the INSERT of all staging rows into the target."""
        return statements.insert(self.target_name, staging, self.target_columns, identity=self.keeps_identity)

    def require_accepted(self, *, retryable: bool | None = None) -> None:
        """Raise `PlanError` if there are refusals.

        `retryable`: a retry may help, because the refusals were not there a moment ago.
        """
        if self.refusals:
            raise PlanError(self.refusals, retryable=retryable)

    @property
    def source_schemas(self) -> tuple[str, ...]:
        """The schemas that are searched after pg_catalog while the source is read."""
        return self.source_relation.schemas if self.source_relation else ()

    @property
    def source_oid(self) -> int:
        """The OID of what is read; 0 for a query."""
        return self.source_relation.oid if self.source_relation else 0

    @property
    def target_oid(self) -> int:
        """The target's OID; a table dropped and made again has another."""
        return self.target_relation.oid if self.target_relation else 0

    @property
    def source_schema(self) -> SourceSchema | None:
        """The schema that is read; None without a source to read."""
        return (
            None
            if self.source_relation is None
            else SourceSchema.from_relation(self.source_relation, self.spec.columns)
        )

    def steps(self) -> tuple[PlannedStep, ...]:
        """Return the statements in order.

        A token that is not drawn yet stands as ``<token>``.
        """
        if self.refusals:
            return ()
        columns = self.target_columns
        # Shown with the very statements that run, so that the plan cannot drift away from the copy.
        plain = statements.create_staging(STAGING, [(taken.name, taken.type) for _, taken in self.pairs])
        hidden = together((plain, *statements.hide_staging(STAGING, self.hidden_from)))
        made = [step for step in self.publish_steps if step.stage == "import"]
        copy_out = SQL("COPY {} TO STDOUT (FORMAT {})").format(self.build_copy_source(), SQL(self.format))
        return (
            # A swap loads into a table of its own making, instead of staging.
            *(made or [PlannedStep("import", "target", hidden.as_string(None), "none on your tables")]),
            PlannedStep("export", "source", copy_out.as_string(None), "ACCESS SHARE"),
            PlannedStep(
                "import",
                "target",
                copy_script.load_copy(STAGING, columns, format=self.format, freeze=self.is_frozen),
                "none on your tables",
            ),
            *(step for step in self.publish_steps if step.stage != "import"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "source": self.source,
            "target": self.target,
            "lock": self.lock,
            "format": self.format,
            "transfer": self.transfer,
            "publish": self.publish,
            "write_mode": self.spec.write_mode,
            "columns": dict(zip(self.source_columns, self.target_columns, strict=True)),
            "expected_rows": self.expected_rows,
            "expected_bytes": self.expected_bytes,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "refusals": [asdict(refused) for refused in self.refusals],
            "steps": [asdict(step) for step in self.steps()],
        }

    def find_earlier_report(self) -> CopyReport | None:
        """Return the report of the run that appended these rows already; None without one."""
        if self.history is None or (first := self.history.earlier_append) is None:
            return None
        told = f"append_key {self.spec.append_key} was appended at {first.published_at}; nothing was exported"
        return replace(
            self.as_report(),
            status="already_published",
            lock=first.lock,
            token=first.token,
            attempt=first.attempt,
            inserted=first.rows,
            bytes=first.bytes,
            digest=first.digest,
            published_at=first.published_at,
            reasons=(told,),
        )

    def as_report(self) -> CopyReport:
        """Return the report of a dry run."""
        return CopyReport(
            status="planned",
            lock=self.lock,
            source=self.source,
            target=self.target,
            format=self.format,
            transfer=self.transfer,
            publish=self.publish,
            write_mode=self.spec.write_mode,
            slice=self.history.append_key if self.history else self.spec.append_key,
            shape=None if self.source_schema is None else self.source_schema.fingerprint,
            reasons=self.reasons,
            warnings=self.warnings,
        )

    def _facts(self) -> list[tuple[str, str]]:
        pairs = zip(self.source_columns, self.target_columns, strict=True)
        columns = (source if source == target else f"{source} -> {target}" for source, target in pairs)
        return [
            ("from", self.source),
            ("to", self.target),
            ("columns", ", ".join(columns) or "-"),
            ("how", f"{self.transfer}, {self.format}, {self.publish}"),
            ("expected", f"about {format_count(self.expected_rows)} rows, {format_size(self.expected_bytes)}"),
            ("lock", self.lock),
            *reason_facts(self.reasons, self.warnings),
        ]

    def _refusal_facts(self) -> list[tuple[str, str]]:
        found = [(f"{refused.message} [{refused.code}]", refused.hint) for refused in self.refusals]
        return [fact for message, hint in found for fact in (("refused", message), ("next", hint)) if fact[1]]


def _format_steps(steps: Sequence[PlannedStep]) -> list[str]:
    lines = ["", "  SQL, in order:"] if steps else []
    for step in steps:
        lines += ["", f"  -- {step.stage}, on the {step.database}; lock: {escape(step.lock)}"]
        # Escaped: a name may hold control characters that a terminal would act upon.
        lines += [f"  {line}" for line in f"{escape(step.sql)};".splitlines()]
    return lines

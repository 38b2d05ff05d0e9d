"""Drafting the plans of a batch: one bulk catalog is read, and each plan drafted from it as that of a single copy is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.transfer import draft as drafting
from airflow_provider_safecopy.transfer import manner, statements
from airflow_provider_safecopy.transfer.bulk_catalog import Catalog, read_catalog
from airflow_provider_safecopy.transfer.exchange import name_exchanges
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec

CARRIED_BYTES = manner.SMALL_BYTES
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
            raise PlanError(found)  # a plan would read the ledger
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
        plan = drafting.draft(spec, self.source, self.target, catalog, telling=self.telling)
        return as_carried(replace(plan, refusals=plan.refusals + found))


def fits(plan: CopyPlan) -> bool:
    """Whether a shuttle can carry it."""
    spec = plan.spec
    return (
        plan.publish in _CARRIED
        and plan.transfer == "sequential"
        and plan.definition is None
        and plan.page_ranges == (None,)
        and spec.rate_limit is None
        and not spec.refresh_views
        and plan.expected_bytes is not None
        and plan.expected_bytes <= CARRIED_BYTES
        and _is_plain(plan)
    )


def _is_plain(plan: CopyPlan) -> bool:
    """Whether both scripts of a shuttle are plain: psql could interpret nothing in them."""
    columns = [(taken.name, taken.type) for _, taken in plan.pairs]
    texts = plan.build_copy_source(), statements.create_staging(plan.target_name, columns)
    return all(statements.is_plain(statements.plain_names(text)) for text in texts)


def as_carried(plan: CopyPlan) -> CopyPlan:
    """A view's size is only guessed; a shuttle finds out before it is too late."""
    guessed = plan.transfer == "chunked" and plan.spec.transfer == "auto"
    if not guessed or not fits(replace(plan, transfer="sequential")):
        return plan
    reasons = tuple(_SEQUENTIAL if reason.startswith("transfer chunked") else reason for reason in plan.reasons)
    return replace(plan, transfer="sequential", reasons=reasons)

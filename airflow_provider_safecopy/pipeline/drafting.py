"""Drafting the plans of a batch: both ends surveyed at once, each plan drafted as that of a single copy is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.transfer import draft as drafting
from airflow_provider_safecopy.transfer import statements, survey
from airflow_provider_safecopy.transfer.model import Extent
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.survey import Survey

CARRIED_BYTES = drafting.SMALL_BYTES
"""What a shuttle carries at most; a larger table goes the ordinary way."""

# What a shuttle can publish: staging tables of a plain kind are enough for these.
_CARRIED = frozenset({"delta", "delete_insert", "truncate_insert", "insert", "upsert"})
_SEQUENTIAL = "transfer sequential: small, carried by psql sessions that stay for all small tables"


@dataclass(frozen=True)
class Drafts:
    """Drafts plans of copies from `source` into `target`, with `telling` to be shown.

    What a planner guessed of a table's rows is asked once; of what the catalog says each draft asks anew.
    """

    source: Session
    target: Session
    telling: bool = False
    guesses: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def of(self, specs: Sequence[CopySpec]) -> list[CopyPlan]:
        """The plans, refusals included, of a number of tables that is bounded: all answers are kept meanwhile."""
        server = self.target.server
        found = schema.refusals(self.target.connection, role=server.role, may_create=server.may_create)
        if any(refused.code == "untrusted_schema" for refused in found):
            raise PlanError(found)  # a plan would read the ledger
        ours = survey.of_sources(self.source, specs, self.guesses)
        theirs = survey.of_targets(self.target, specs, self.source.endpoint)
        plans = [self._of(spec, ours, theirs, found) for spec in specs]
        self._remember(ours.guesses)
        return plans

    def _remember(self, guesses: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
        """For the second draft of each table; after that nobody asks again."""
        for key, rows in guesses.items():
            if key in self.guesses:
                del self.guesses[key]
            else:
                self.guesses[key] = rows

    def _of(self, spec: CopySpec, ours: Survey, theirs: Survey, found: tuple[Refusal, ...]) -> CopyPlan:
        extent = survey.extent(theirs, spec.target_table)
        plan = drafting.draft(spec, ours, theirs, extent=extent, telling=self.telling)
        if (actual := _at_least(extent, plan)) != extent:
            plan = drafting.draft(spec, ours, theirs, extent=actual, telling=self.telling)
        return as_carried(replace(plan, refusals=plan.refusals + found))


def fits(plan: CopyPlan) -> bool:
    """Whether a shuttle can carry it."""
    spec = plan.spec
    return (
        plan.publish in _CARRIED
        and plan.transfer == "sequential"
        and plan.definition is None
        and plan.lanes == (None,)
        and spec.rate_limit is None
        and not spec.refresh_views
        and plan.expected_bytes is not None
        and plan.expected_bytes <= CARRIED_BYTES
        and _is_plain(plan)
    )


def _is_plain(plan: CopyPlan) -> bool:
    """Whether both scripts of a shuttle are plain: psql could interpret nothing in them."""
    columns = [(taken.name, taken.type) for _, taken in plan.pairs]
    texts = plan.read(), statements.create_staging(plan.target_name, columns)
    return all(statements.is_plain(statements.plain_names(text)) for text in texts)


def as_carried(plan: CopyPlan) -> CopyPlan:
    """A view's size is only guessed; a shuttle finds out before it is too late."""
    guessed = plan.transfer == "chunked" and plan.spec.transfer == "auto"
    if not guessed or not fits(replace(plan, transfer="sequential")):
        return plan
    reasons = tuple(_SEQUENTIAL if reason.startswith("transfer chunked") else reason for reason in plan.reasons)
    return replace(plan, transfer="sequential", reasons=reasons)


def _at_least(extent: Extent, plan: CopyPlan) -> Extent:
    """As large as its target, or as its source is expected to be."""
    rows, size = plan.expected_rows, plan.expected_bytes
    if rows is None or size is None or rows > survey.SMALL_ROWS or size > survey.SMALL_BYTES:
        return "any"
    return "small" if extent == "tiny" and size > survey.TINY_BYTES else extent

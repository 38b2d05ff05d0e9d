"""The ways to publish: how proven rows in staging become the target's, each in one transaction of the frame.

A way is a module. The frame (`transfer.publish`) opens the transaction, checks the fence, and sets the short lock
timeout under which a way takes its lock; whatever it raises rolls back, and `LockNotAvailable` begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.plan import CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.spec import Strategy as Name


class PublishStrategy(Protocol):
    """The interface of each module here."""

    def find_refusals(self, table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
        """Why this table does not bear it. Reads only."""

    def find_drawback(self, table: TargetTable, spec: CopySpec) -> str | None:
        """Why ``auto`` had better choose another way where it can; None where there is no reason."""

    def list_steps(self, plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
        """Return the steps for people: statements and the strongest lock of each. Reads only.

        Those of the stage import, if any, are what its staging table is made by.
        """

    def prepare(self, job: PublishContext) -> Any:
        """Do what is possible before the transaction, unnoticed by others; `write` gets the result."""

    def write(self, job: PublishContext, prepared: Any) -> WrittenRows:
        """Lock the target, demand that it is the table of the plan, write, and say what was written."""


if TYPE_CHECKING:
    from airflow_provider_safecopy.publish.strategies import (
        create,
        delete_insert,
        delta,
        insert,
        swap,
        truncate_insert,
        upsert,
    )

    _EACH_IS_ONE: tuple[PublishStrategy, ...] = (create, delete_insert, delta, insert, swap, truncate_insert, upsert)


class _Strategies(Mapping[Name, PublishStrategy]):
    """Each imported when it is first looked up: a copy publishes in one way, and has looked at few."""

    def __getitem__(self, name: Name) -> PublishStrategy:
        if name not in get_args(Name):
            raise KeyError(name)
        return cast("PublishStrategy", import_module(f"{__name__}.{name}"))

    def __iter__(self) -> Iterator[Name]:
        return iter(get_args(Name))

    def __len__(self) -> int:
        return len(get_args(Name))

    def __contains__(self, name: object) -> bool:
        return name in get_args(Name)


STRATEGIES: Mapping[Name, PublishStrategy] = _Strategies()

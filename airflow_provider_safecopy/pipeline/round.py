"""A round: some of the small tables of a batch, locked together, and then copied one after the other by a shuttle.

Each table has a lock, token, staging table, proofs, fence and receipt of its own; what they share is the snapshot that
is read, the sessions, and the questions that are asked of all of them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid5

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, SafeCopyError, StageError
from airflow_provider_safecopy.lock.gate import Gate
from airflow_provider_safecopy.lock.model import Lease
from airflow_provider_safecopy.lock.pulse import Pulse
from airflow_provider_safecopy.lock.several import TableLocks
from airflow_provider_safecopy.pipeline.attempt import (
    Attempt,
    answering,
    end_displaced,
    name_blockers,
    see_them_gone,
    telling_aborts,
    telling_losses,
    telling_the_lost_lock,
)
from airflow_provider_safecopy.pipeline.drafting import CARRIED_BYTES, Drafts, fits
from airflow_provider_safecopy.pipeline.outcome import Failure, Outcome, report_of, takeover_of
from airflow_provider_safecopy.transfer import staging
from airflow_provider_safecopy.transfer.export import Exported
from airflow_provider_safecopy.transfer.load import Loaded
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.publish import publish
from airflow_provider_safecopy.transfer.report import CopyReport
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.shuttle import Shuttle, TooLargeError
from airflow_provider_safecopy.transfer.snapshot import require_no_deadlock
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.verify import verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crew:
    """What all rounds of a batch share."""

    asked: Attempt
    lock: TableLocks
    gate: Gate
    pulse: Pulse
    source: Session
    target: Session
    snapshot: str
    drafts: Drafts

    def demand_going_on(self) -> None:
        """Raise what ends the whole batch, if anything has."""
        self.lock.check()
        self.asked.abort.check()
        for session in (self.source, self.target):
            if session.connection.closed:
                raise StageError(f"{session.endpoint}: the control session was lost", stage="connect")


class Rounds:
    """Copies small tables, a round at a time. `close` always.

    A table is called by the name of its lock. `tell` is told what came of each; `too_large` are those that turned out
    to be nothing for a shuttle, and still wait to be copied.
    """

    def __init__(self, crew: Crew, tell: Callable[[str, Outcome], None]) -> None:
        self._crew = crew
        self._tell = tell
        self._shuttle: Shuttle | None = None
        self._swept = False
        self._published: list[TableName] = []  # the staging tables of those of this round
        self.too_large: list[str] = []

    def close(self, *, at_once: bool = True) -> None:
        """End the psqls; without `at_once` they may end by themselves."""
        if self._shuttle is not None:
            shuttle, self._shuttle = self._shuttle, None
            shuttle.close(at_once=at_once)

    def run(self, locks: Mapping[str, CopySpec], kin: Mapping[str, Collection[str]]) -> None:
        """Run one round of tables, by the names of their locks. Raises only errors that end the batch.

        `kin`: the locks of partitions and parents, which no other attempt may hold meanwhile.
        """
        crew = self._crew
        answers = crew.lock.take(locks, kin)
        leases = {name: answer for name in locks if isinstance(answer := answers[name], Lease)}
        try:
            for name, answer in answers.items():
                if not isinstance(answer, Lease):
                    self._tell(name, Failure.of(locks[name], answer))
            self._all(self._ready(locks, leases, kin))
        finally:
            # At once: to drop one the server looks through all of its buffers, and to drop many no more often.
            staging.drop(crew.target, *self._published)
            self._published.clear()
            crew.lock.let_go(leases.values())

    def _ready(
        self, locks: Mapping[str, CopySpec], leases: Mapping[str, Lease], kin: Mapping[str, Collection[str]]
    ) -> list[tuple[CopyPlan, Lease]]:
        """Once more, now under the locks and in the very snapshot that is exported."""
        crew, asked = self._crew, self._crew.asked
        specs = [locks[name] for name in leases]
        obeying = crew.source.obeys(asked.abort), crew.target.obeys(asked.abort)
        with obeying[0], obeying[1], answering(asked.spec, crew.source, crew.target):
            end_displaced(crew.lock, crew.source)
            if not self._swept or crew.lock.displaced:
                staging.sweep(crew.target, gone=crew.lock.displaced)
                self._swept = True
            plans = crew.drafts.of(specs)
        ready = []
        for plan, lease in zip(plans, leases.values(), strict=True):
            if plan.refusals:
                error = PlanError(plan.refusals, retryable=True)  # a moment ago nothing spoke against it
                self._tell(lease.name, Failure.of(plan.spec, error))
            elif (first := plan.already_published()) is not None:
                self._tell(lease.name, first)
            elif not fits(plan) or str(plan.target_name) != lease.name or _has_joined(plan, kin.get(lease.name, ())):
                self.too_large.append(lease.name)
            else:
                ready.append((plan, lease))
        return ready

    def _all(self, ready: Sequence[tuple[CopyPlan, Lease]]) -> None:
        following = [plan for plan, _ in ready[1:]]
        for (plan, lease), after in zip(ready, [*following, None], strict=False):
            try:
                with telling_aborts(self._crew.asked.abort), telling_losses(), telling_the_lost_lock(self._crew.lock):
                    report = self._copied(plan, lease, after)
            except TooLargeError:
                log.info("%s: larger than expected, it is copied by itself", plan.source)
                self.too_large.append(lease.name)
            except SafeCopyError as error:
                self._tell(lease.name, Failure.of(plan.spec, error))
                self._crew.demand_going_on()
            else:
                self._tell(lease.name, report)

    def _copied(self, plan: CopyPlan, lease: Lease, following: CopyPlan | None) -> CopyReport:
        crew, target = self._crew, self._crew.target
        # A receipt's attempt is unique: those of a batch are told apart by their tables.
        attempt = uuid5(lease.attempt, lease.name)
        name = staging.name_of(
            plan.target_name, token=lease.token, attempt=lease.attempt, encoding=target.server.encoding
        )
        try:
            exported, loaded = self._carried(plan, name, following)
            with crew.source.obeys(crew.asked.abort), target.obeys(crew.asked.abort):
                verification = verify(plan, exported, loaded, source=crew.source, target=target)
            crew.pulse.step()
            self._reset()
            published = publish(
                plan,
                verification,
                lease,
                target=target,
                fence=crew.lock.fence_of(lease, target.all),
                abort=crew.asked.abort,
                trying=crew.pulse.step,
                drops=False,
                attempt=attempt,
            )
        except BaseException:
            staging.drop_failed(target, name)
            raise
        self._published.append(name)
        crew.pulse.step()
        return report_of(lease, (exported, loaded, verification), published, takeover_of(lease), attempt=attempt)

    def _carried(self, plan: CopyPlan, name: TableName, following: CopyPlan | None) -> tuple[Exported, Loaded]:
        """Export and import. When it fails both psqls are ended, and their server sessions seen gone."""
        crew = self._crew
        self._shuttle = self._shuttle or self._new_shuttle(plan)
        try:
            with self._shuttle.obeying(), name_blockers(crew.source, crew.target):
                exported = self._shuttle.fetch(plan)
                if following is not None:
                    self._shuttle.ask(following)
                return exported, self._shuttle.load(plan, name, exported)
        except BaseException as error:
            self.close()
            see_them_gone(error, crew.asked, crew.lock, crew.source, crew.target)
            raise

    def _reset(self) -> None:
        """Have no trigger of one table's change the session in which the next one is published."""
        self._crew.target.reset(lock_wait=self._crew.asked.spec.timeouts.lock_wait)
        self._crew.target.connection.execute(sql.load("receipt")["relaxed"])

    def _new_shuttle(self, plan: CopyPlan) -> Shuttle:
        crew, asked = self._crew, self._crew.asked
        assert plan.psql is not None  # noqa: S101 -- a plan without psql is refused
        return Shuttle(
            plan.psql,
            (crew.source.endpoint, crew.target.endpoint),
            snapshot=crew.snapshot,
            application_name=asked.name,
            timeouts=asked.spec.timeouts,
            limit=CARRIED_BYTES,
            abort=asked.abort,
            starting=(self._turn, crew.pulse.resting),
            moved=crew.pulse.step,
            waiting=lambda readers: require_no_deadlock(crew.source, readers=readers),
            look=(crew.source.lookout.look, crew.target.lookout.look),
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        crew = self._crew
        with crew.gate.turn(crew.asked.abort, waiting=crew.pulse.step), crew.pulse.resting():
            yield


def _has_joined(plan: CopyPlan, kin: Collection[str]) -> bool:
    """Whether a partition or parent was attached since the lock was taken."""
    return plan.target_relation is not None and not {str(each) for each in plan.target_relation.kin} <= set(kin)

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
from airflow_provider_safecopy.lock.bulk import TableLocks
from airflow_provider_safecopy.lock.connection_gate import Opening
from airflow_provider_safecopy.lock.heartbeat import Heartbeat
from airflow_provider_safecopy.lock.model import Lease
from airflow_provider_safecopy.pipeline.outcome import Failure, Outcome, build_report, takeover_of
from airflow_provider_safecopy.pipeline.planner import CARRIED_BYTES, BatchPlanner, fits
from airflow_provider_safecopy.pipeline.run import (
    Attempt,
    answering,
    end_displaced,
    name_blockers,
    see_them_gone,
    translate_aborts,
    translate_losses,
    translate_lost_lock,
)
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import staging
from airflow_provider_safecopy.publish.transaction import publish
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.transfer.export import Exported
from airflow_provider_safecopy.transfer.load import Loaded
from airflow_provider_safecopy.transfer.small_tables import PsqlPair, TooLargeError
from airflow_provider_safecopy.transfer.snapshot import require_no_deadlock
from airflow_provider_safecopy.transfer.verify import verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchResources:
    """The resources that all rounds of a batch share."""

    asked: Attempt
    lock: TableLocks
    opening: Opening
    pulse: Heartbeat
    source: Session
    target: Session
    snapshot: str
    drafts: BatchPlanner

    def require_running(self) -> None:
        """Raise what ends the whole batch, if anything has."""
        self.lock.check()
        self.asked.abort.check()
        for session in (self.source, self.target):
            if session.connection.closed:
                raise StageError(f"{session.endpoint}: the control session was lost", stage="connect")


class BatchRounds:
    """Copies small tables, a round at a time. `close` always.

    A table is called by the name of its lock. `tell` is told what came of each; `too_large` are those that turned out
    to be nothing for a shuttle, and still wait to be copied.
    """

    def __init__(self, crew: BatchResources, tell: Callable[[str, Outcome], None]) -> None:
        self._crew = crew
        self._tell = tell
        self._shuttle: PsqlPair | None = None
        self._swept = False
        # The staging tables of those of this round.
        self._published: list[TableName] = []
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
        answers = crew.lock.acquire_tables(locks, kin)
        leases = {name: answer for name in locks if isinstance(answer := answers[name], Lease)}
        try:
            for name, answer in answers.items():
                if not isinstance(answer, Lease):
                    self._tell(name, Failure.from_error(locks[name], answer))
            self._all(self._ready(locks, leases, kin))
        finally:
            # At once: to drop one the server looks through all of its buffers, and to drop many no more often.
            staging.drop_tables(crew.target, *self._published)
            self._published.clear()
            crew.lock.release_tables(leases.values())

    def _ready(
        self, locks: Mapping[str, CopySpec], leases: Mapping[str, Lease], kin: Mapping[str, Collection[str]]
    ) -> list[tuple[CopyPlan, Lease]]:
        """Once more, now under the locks and in the very snapshot that is exported."""
        crew, asked = self._crew, self._crew.asked
        specs = [locks[name] for name in leases]
        obeying = crew.source.cancel_on_abort(asked.abort), crew.target.cancel_on_abort(asked.abort)
        with obeying[0], obeying[1], answering(asked.spec, crew.source, crew.target):
            end_displaced(crew.lock, crew.source)
            if not self._swept or crew.lock.displaced_attempts:
                staging.drop_leftovers(crew.target, gone_attempts=crew.lock.displaced_attempts)
                self._swept = True
            plans = crew.drafts.plan_all(specs)
        ready = []
        for plan, lease in zip(plans, leases.values(), strict=True):
            if plan.refusals:
                # A moment ago nothing spoke against it.
                error = PlanError(plan.refusals, retryable=True)
                self._tell(lease.name, Failure.from_error(plan.spec, error))
            elif (first := plan.find_earlier_report()) is not None:
                self._tell(lease.name, first)
            elif (
                not fits(plan)
                or self._locks_itself(plan)
                or str(plan.target_name) != lease.name
                or _has_joined(plan, kin.get(lease.name, ()))
            ):
                self.too_large.append(lease.name)
            else:
                ready.append((plan, lease))
        return ready

    def _locks_itself(self, plan: CopyPlan) -> bool:
        """Return whether the publish would wait for the snapshot of its own batch, which has locked what it reads."""
        one, other = self._crew.source.server, self._crew.target.server
        return plan.publish == "truncate_insert" and one.identity == other.identity

    def _all(self, ready: Sequence[tuple[CopyPlan, Lease]]) -> None:
        following = [plan for plan, _ in ready[1:]]
        for (plan, lease), after in zip(ready, [*following, None], strict=False):
            try:
                with translate_aborts(self._crew.asked.abort), translate_losses(), translate_lost_lock(self._crew.lock):
                    report = self._copy_table(plan, lease, after)
            except TooLargeError:
                log.info("%s: larger than expected, it is copied by itself", plan.source)
                self.too_large.append(lease.name)
            except SafeCopyError as error:
                self._tell(lease.name, Failure.from_error(plan.spec, error))
                self._crew.require_running()
            else:
                self._tell(lease.name, report)

    def _copy_table(self, plan: CopyPlan, lease: Lease, following: CopyPlan | None) -> CopyReport:
        crew, target = self._crew, self._crew.target
        # A receipt's attempt is unique: those of a batch are told apart by their tables.
        attempt = uuid5(lease.attempt, lease.name)
        name = staging.build_name(
            plan.target_name, token=lease.token, attempt=lease.attempt, encoding=target.server.encoding
        )
        try:
            exported, loaded = self._transfer_table(plan, name, following)
            with crew.source.cancel_on_abort(crew.asked.abort), target.cancel_on_abort(crew.asked.abort):
                verification = verify(plan, exported, loaded, source=crew.source, target=target)
            crew.pulse.count_step()
            self._reset()
            published = publish(
                plan,
                verification,
                lease,
                target=target,
                fence=crew.lock.build_fence(lease, target.fetch_all),
                abort=crew.asked.abort,
                on_try=crew.pulse.count_step,
                drops_staging=False,
                attempt=attempt,
            )
        except BaseException:
            staging.drop_after_failure(target, name)
            raise
        self._published.append(name)
        crew.pulse.count_step()
        return build_report(lease, (exported, loaded, verification), published, takeover_of(lease), attempt=attempt)

    def _transfer_table(self, plan: CopyPlan, name: TableName, following: CopyPlan | None) -> tuple[Exported, Loaded]:
        """Export and import. When it fails both psqls are ended, and their server sessions seen gone."""
        crew = self._crew
        self._shuttle = self._shuttle or self._new_shuttle(plan)
        try:
            with self._shuttle.interrupt_on_abort(), name_blockers(crew.source, crew.target):
                exported = self._shuttle.fetch(plan)
                crew.opening.close()
                if following is not None:
                    self._shuttle.begin_export(following)
                return exported, self._shuttle.load(plan, name, exported)
        except BaseException as error:
            self.close()
            see_them_gone(error, crew.asked, crew.lock, crew.source, crew.target)
            raise

    def _reset(self) -> None:
        """Have no trigger of one table's change the session in which the next one is published."""
        self._crew.target.reset(lock_wait=self._crew.asked.spec.timeouts.lock_wait)
        self._crew.target.connection.execute(sql.load("receipt")["relaxed"])

    def _new_shuttle(self, plan: CopyPlan) -> PsqlPair:
        crew, asked = self._crew, self._crew.asked
        assert plan.psql is not None  # noqa: S101 -- a plan without psql is refused
        return PsqlPair(
            plan.psql,
            (crew.source.endpoint, crew.target.endpoint),
            snapshot=crew.snapshot,
            application_name=asked.name,
            timeouts=asked.spec.timeouts,
            limit=CARRIED_BYTES,
            abort=asked.abort,
            start_guards=(self._turn, crew.pulse.pause),
            on_move=crew.pulse.count_step,
            on_silence=lambda readers: require_no_deadlock(crew.source, readers=readers),
            on_idle=(crew.source.lookout.look, crew.target.lookout.look),
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        crew = self._crew
        with crew.opening.turn(waiting=crew.pulse.count_step), crew.pulse.pause():
            yield


def _has_joined(plan: CopyPlan, kin: Collection[str]) -> bool:
    """Return whether a partition or parent was attached since the lock was taken."""
    return plan.target_relation is not None and not {str(each) for each in plan.target_relation.kin} <= set(kin)

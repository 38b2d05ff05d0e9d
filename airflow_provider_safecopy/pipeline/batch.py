"""A batch: many tables in one call. Small ones by rounds, which share all that can be shared; the others by the line.

Every plan is drafted before the first table is touched, except for tables whose lock is held. From then on a table that fails does not keep the others from
being copied; what each came to is in the `BatchReport`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar
from uuid import uuid4

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import ConfigError, LockBusyError, PlanError, Refusal, SafeCopyError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.bulk import BulkStore, TableLocks
from airflow_provider_safecopy.lock.connection_gate import Opening
from airflow_provider_safecopy.lock.heartbeat import Heartbeat
from airflow_provider_safecopy.lock.living_lock import LivenessCheck
from airflow_provider_safecopy.lock.model import Contender, Promise, format_application_name
from airflow_provider_safecopy.pipeline import copy_table
from airflow_provider_safecopy.pipeline.batch_rounds import BatchResources, BatchRounds
from airflow_provider_safecopy.pipeline.outcome import BatchProgress, BatchReport, Failure, Listener, Outcome
from airflow_provider_safecopy.pipeline.planner import BatchPlanner, fits
from airflow_provider_safecopy.pipeline.run import (
    Attempt,
    answering,
    end_displaced,
    ending_the_lost,
    guard_fork,
    name_holders,
    require_room,
    translate_aborts,
    translate_losses,
    translate_lost_lock,
)
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.activity import ActivityWatch
from airflow_provider_safecopy.postgres.diagnosis import conceal, set_rows_shown
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.transfer.snapshot import hold_snapshot

log = logging.getLogger(__name__)

ROUND_TABLES = 100
"""How many are locked and drafted together: enough to share what is asked, few enough not to wait long for their turn."""

OnBusy = Literal["fail", "skip", "wait"]

_T = TypeVar("_T")


def plan_tables(specs: Sequence[CopySpec], source: Endpoint, target: Endpoint) -> tuple[CopyPlan, ...]:
    """Return what `copy_tables` would do, decided and not done. Refusals are in the plans."""
    _require_shared_options(specs)
    require_room(specs[0])
    name, timeout = format_application_name(uuid4()), specs[0].timeouts.connect
    with (
        set_rows_shown(show=all(spec.show_rows for spec in specs)),
        translate_losses(),
        open_session(
            source,
            application_name=name,
            connect_timeout=timeout,
            lock_wait=specs[0].timeouts.lock_wait,
            read_only=True,
        ) as ours,
        open_session(
            target, application_name=name, connect_timeout=timeout, lock_wait=specs[0].timeouts.lock_wait
        ) as theirs,
    ):
        return tuple(_merge_plans(specs, BatchPlanner(ours, theirs, telling=True)))


def copy_tables(
    specs: Sequence[CopySpec],
    source: Endpoint,
    target: Endpoint,
    *,
    owner: str = "",
    contender: Contender | None = None,
    judge: LivenessCheck | None = None,
    abort: AbortSwitch | None = None,
    progress: Listener | None = None,
    keep_going: bool = False,
    on_busy: OnBusy = "fail",
) -> BatchReport:
    """Copy many tables, each as safely as `copy` does; what each came to is in the report.

    Raises, before any table is touched: `ConfigError`, `StageError` where a server cannot be reached, `PlanError` when any
    is refused (with `keep_going` the others are copied), `LockBusyError` when another run holds the run's own lock, and
    with ``on_busy="wait"`` the lock of any of the tables. Afterwards nothing is raised for what befalls a table, nor
    when the batch is stopped: those not copied are among the `failed`. ``on_busy="skip"`` makes a table whose lock is
    busy one that was skipped. What is left of `copy`'s arguments means the same here.

    Tables that are carried in rounds are read in one snapshot: consistent in itself. Each of the others has its own.
    """
    _require_shared_options(specs)
    require_room(specs[0], abort)
    abort, started = abort or AbortSwitch(), time.monotonic()
    contender = contender or Contender.alone(owner)
    shown = set_rows_shown(show=all(spec.show_rows for spec in specs))
    with shown, translate_aborts(abort), translate_losses(), ExitStack() as stack:
        asked = Attempt(specs[0], contender, abort, lambda _: None)
        theirs = stack.enter_context(asked.session(target))
        lock = _locks(asked, theirs, judge)
        stack.callback(lock.release)
        abort.check()
        lock.peek()
        opening = asked.opening(lock, source)
        stack.callback(opening.close)
        with opening.turn():
            ours = stack.enter_context(asked.session(source, read_only=True))
        ours.lookout.enter_gate = opening.glance
        listener = guard_fork(progress or (lambda _: None))
        batch = _Batch(asked, lock, opening, ours, theirs, BatchPlanner(ours, theirs), on_busy, listener)
        batch.decide(specs, keep_going=keep_going)
        batch.begin()
        batch.carry()
        batch.copy_others(judge)
    return BatchReport(batch.outcomes(), time.monotonic() - started, copy_table.peak_rss())


@dataclass
class _Batch:
    """A batch at work. A table is called by the name of its lock; the run's own lock is taken by `begin`."""

    asked: Attempt
    lock: TableLocks
    opening: Opening
    source: Session
    target: Session
    drafts: BatchPlanner
    on_busy: OnBusy
    progress: Listener
    specs: dict[str, CopySpec] = field(default_factory=dict)
    found: dict[str, Outcome] = field(default_factory=dict)
    small: list[str] = field(default_factory=list)
    kin: dict[str, frozenset[str]] = field(default_factory=dict)

    def decide(self, specs: Sequence[CopySpec], *, keep_going: bool) -> None:
        """Draft all plans. Raises `PlanError`, `ConfigError`.

        A table whose lock is held is left to the line: stopped in the midst of a publish they may keep it locked, and
        to describe it would wait for whom only the lock's next holder ends.
        """
        taken, refusals = self.lock.read_held_names(), dict[Refusal, None]()
        with self.source.cancel_on_abort(self.asked.abort), self.target.cancel_on_abort(self.asked.abort):
            plans = _merge_plans([spec for spec in specs if str(spec.target_table) not in taken], self.drafts)
            for spec in specs:
                if str(spec.target_table) in taken:
                    self._add(str(spec.target_table), spec)
                    continue
                plan = next(plans)
                name = self._add(str(plan.target_name), plan.spec)
                self.kin[name] = frozenset(map(str, plan.target_relation.kin if plan.target_relation else ()))
                refusals |= dict.fromkeys(plan.refusals)
                if plan.refusals:
                    self.found[name] = Failure.from_error(plan.spec, PlanError(plan.refusals))
                elif fits(plan):
                    self.small.append(name)
        self._require_apart()
        if refusals and (not keep_going or len(self.found) == len(specs)):
            raise PlanError(tuple(refusals))

    def _add(self, name: str, spec: CopySpec) -> str:
        if name in self.specs:
            raise ConfigError(f"{name} is the target of two tables", hint="name each target once")
        self.specs[name] = spec
        return name

    def _require_apart(self) -> None:
        """Raise `ConfigError` if one target of the batch is a partition of another."""
        for name, kin in self.kin.items():
            if other := next((each for each in sorted(kin) if each in self.specs), None):
                message = f"{name} and {other} are partition and parent, and both are targets"
                raise ConfigError(message, hint="copy them in two calls, one after the other")

    def begin(self) -> None:
        """Hold the run's own lock. Raises `LockBusyError`, `LockStoreError`."""
        with name_holders(self.target):
            with self.target.cancel_on_abort(self.asked.abort):
                schema.init(self.target.connection)
            self.lock.acquire()
        end_displaced(self.lock, self.source)
        if self.on_busy == "wait":
            self.lock.require_free(name for name in self.specs if name not in self.found)

    def carry(self) -> None:
        """Copy the small tables, in rounds."""
        if not self.small:
            return
        log.info("copy %d small tables of %d in rounds", len(self.small), len(self.specs))
        lost = ending_the_lost(self.asked, self.lock, self.source, self.target)
        with self._ending(), lost, self._crew() as crew, ExitStack() as stack:
            rounds = BatchRounds(crew, self.record_outcome)
            stack.callback(rounds.close)
            for names in _pieces(self.small):
                rounds.run({name: self.specs[name] for name in names}, self.kin)
            rounds.close(at_once=False)

    def copy_others(self, judge: LivenessCheck | None) -> None:
        """Copy what is left by the line, one after the other, each by a member of this run."""
        self.source.end_transaction()
        self.opening.close()  # each of them has a turn of its own
        left = [name for name in self.specs if name not in self.found]
        with self._ending():
            for name in left:
                self.asked.abort.check()
                self.progress(BatchProgress(len(self.found), len(self.specs), self._failures, name))
                try:
                    self.record_outcome(name, self._copy_large(name, judge))
                except SafeCopyError as error:
                    self.record_outcome(name, Failure.from_error(self.specs[name], error))

    def record_outcome(self, name: str, outcome: Outcome) -> None:
        """Record the outcome of a table."""
        spec = self.specs[name]
        if isinstance(outcome, Failure) and isinstance(outcome.error, LockBusyError) and self.on_busy == "skip":
            outcome = CopyReport.from_busy_error(spec, self.source.endpoint, self.target.endpoint, outcome.error)
        if isinstance(outcome, Failure):
            conceal(outcome.error)
            log.warning("%s was not copied: %s", name, outcome.error)
        self.found[name] = outcome
        self.progress(BatchProgress(len(self.found), len(self.specs), self._failures, name))

    def outcomes(self) -> tuple[Outcome, ...]:
        """In the order the tables were asked for."""
        return tuple(self.found[name] for name in self.specs)

    @property
    def _failures(self) -> int:
        return sum(isinstance(outcome, Failure) for outcome in self.found.values())

    def _copy_large(self, name: str, judge: LivenessCheck | None) -> CopyReport:
        mine = self.asked.contender
        member = replace(mine, member=f"{mine.member} {name}", attempt=uuid4())
        source, target = self.source.endpoint, self.target.endpoint
        return copy_table.copy(self.specs[name], source, target, contender=member, judge=judge, abort=self.asked.abort)

    @contextmanager
    def _crew(self) -> Iterator[BatchResources]:
        """All that the rounds work with; the pulse beats meanwhile."""
        asked, ours, theirs = self.asked, self.source, self.target
        watches = [
            ActivityWatch(ours.endpoint, application_name=asked.name, enter_gate=self.opening.glance),
            ActivityWatch(theirs.endpoint, application_name=asked.name),
        ]
        theirs.connection.execute(sql.load("receipt")["relaxed"])
        with ExitStack() as stack:
            for watch in watches:
                stack.callback(watch.close)
            seen = stack.enter_context(hold_snapshot(ours))
            works = Heartbeat(self.lock, asked.abort, is_working=lambda: any(watch.is_working() for watch in watches))
            pulse = stack.enter_context(works)
            yield BatchResources(asked, self.lock, self.opening, pulse, ours, theirs, seen, self.drafts)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Record an error that ends the batch for every table not yet copied."""
        try:
            with translate_aborts(self.asked.abort), translate_losses(), translate_lost_lock(self.lock):
                yield
        except SafeCopyError as error:
            log.warning("the batch has ended: %s", error)
            for name in [name for name in self.specs if name not in self.found]:
                self.record_outcome(name, Failure.from_error(self.specs[name], error))


def _require_shared_options(specs: Sequence[CopySpec]) -> None:
    if not specs:
        raise ConfigError("there is no table to copy", hint="name one at least")


def _merge_plans(specs: Sequence[CopySpec], drafts: BatchPlanner) -> Iterator[CopyPlan]:
    for some in _pieces(specs):
        with answering(specs[0], drafts.source, drafts.target):
            yield from drafts.confirm_all(some)


def _locks(asked: Attempt, target: Session, judge: LivenessCheck | None) -> TableLocks:
    spec, mine = asked.spec, asked.contender
    store = BulkStore(target.endpoint, attempt=mine.attempt, connect_timeout=spec.timeouts.connect)
    store.watcher = target.lookout
    return TableLocks(spec.lock, store, contender=mine, terms=Promise(stale_after=spec.patience), liveness_check=judge)


def _pieces(of: Sequence[_T]) -> Iterable[Sequence[_T]]:
    return (of[at : at + ROUND_TABLES] for at in range(0, len(of), ROUND_TABLES))

"""The second half of the soak: two, four or eight runs at once for one table, stopped and killed, while its source changes."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.soak import ground, ledger
from tests.soak.airflow import Airflow
from tests.soak.contender import Contender, Door, Plan
from tests.soak.generations import SHAPE, Generations, Observer, misseen, state
from tests.soak.run import PATIENT, Pair, Run
from tests.soak.tally import Round
from tests.support.database import Database
from tests.support.remains import Remains

FIELDS = (2, 4, 8)
_TICK_SECONDS = 0.01
_CHANGE_SECONDS = (0.2, 1.2)
_ROUND_SECONDS = 150.0
_LAST_SECONDS = 60.0
_HOLDER = "SELECT COALESCE(owner ->> 'owner', owner ->> 'dag') FROM safecopy.lock WHERE lease_id IS NOT NULL"
_COUNTED = ("grant", "takeover-stale", "takeover-crash", "takeover-dead", "release", "refused")


class Arena:
    """A pair of databases, in which round after round is held."""

    def __init__(self, pair: Pair, directory: Path, airflow: Airflow | None = None) -> None:
        self.pair = pair
        self.files, self.spool = directory / "rivals", directory / "rivals spool"
        for made in (self.files, self.spool):
            made.mkdir()
        for database in pair.values():
            database.execute(SHAPE)
        self._airflow = airflow
        self._seen: Counter[str] = Counter()
        self.generations = Generations(pair["source"])
        self._last("0")  # from here on the target holds a generation

    @property
    def target(self) -> Database:
        return self.pair["target"]

    def hold(
        self,
        name: str,
        plans: Sequence[Plan],
        dice: random.Random,
        spoil: Callable[[Database], object] = lambda _: None,
    ) -> Round:
        """One round. `spoil` is called in the midst of it, to see the judge bite."""
        remains, wrong = Remains(), list[str]()
        with Observer(self.target) as observer:
            contenders = self._race(plans, dice, wrong)
            spoil(self.target)
            self.generations.change()
            wrong += self._demand(lambda: self._last(f"{name} last"))
            wrong += self._demand(lambda: remains.check(*self.pair.values(), spool=self.spool))
        wrong += [*observer.trouble, *misseen(observer.sights, self.generations.states)]
        counts = self._judged(contenders, wrong)
        counts.update({"statements of the observer": observer.looks, "states it saw": len(observer.sights)})
        return Round(f"#{name}", f"{len(plans)} at once", counts, tuple(wrong))

    def plans(self, name: str, dice: random.Random, field: int | None = None) -> list[Plan]:
        """Who takes part in a round of this name."""
        doors: list[Door] = ["command"] * (field or dice.choice(FIELDS))
        if self._airflow is not None and len(doors) > FIELDS[0]:
            doors[0] = dice.choice(("airflow tasks test", "dag.test()"))
        if self._airflow is not None and len(doors) == FIELDS[-1]:
            doors[:2] = ["airflow tasks test", "dag.test()"]
        return [Plan.drawn(f"{name}_{at}", door, dice) for at, door in enumerate(doors, 1)]

    def close(self) -> None:
        ground.drop(self.pair)

    def _race(self, plans: Sequence[Plan], dice: random.Random, wrong: list[str]) -> list[Contender]:
        """Until all have ended; the source goes on changing meanwhile."""
        with ExitStack() as stack:
            contenders = []
            for plan in plans:
                contenders.append(Contender(plan, self._start))
                stack.callback(contenders[-1].run.kill)
            deadline, change_at, holder = time.monotonic() + _ROUND_SECONDS, 0.0, None
            while [each for each in contenders if each.goes_on(holder)]:
                holder = self._holder()
                if time.monotonic() > deadline:
                    late = [str(each.plan) for each in contenders if each.run.process.poll() is None]
                    wrong.append(f"did not end within {_ROUND_SECONDS:g} s: {'; '.join(late)}")
                    break
                if time.monotonic() > change_at:
                    self.generations.change()
                    change_at = time.monotonic() + dice.uniform(*_CHANGE_SECONDS)
                time.sleep(_TICK_SECONDS)
        return contenders

    def _holder(self) -> str | None:
        """Whose the lock is now; None where it is free."""
        found = self.target.rows(_HOLDER)
        return str(found[0][0]) if found else None

    def _start(self, plan: Plan) -> Run:
        if plan.door == "command":
            return Run.copy(self.pair, plan.words(str(self.spool)), self.files)
        assert self._airflow is not None
        return self._airflow.start(plan, self.pair, self.spool, self.files)

    def _last(self, owner: str) -> None:
        """One more run, alone: it succeeds, and the target holds the newest generation."""
        plan = Plan(owner, "command", "delta", "chunked", 1, "wait", "100MB", None)
        words = [*plan.words(str(self.spool)), *PATIENT, "--stale-after", "90"]
        run = Run.copy(self.pair, words, self.files)
        try:
            code = run.process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            run.kill()
            raise AssertionError(f"the run after all did not end within {_LAST_SECONDS:g} s: {run.said}") from None
        assert code == 0, f"the run after all ended with exit code {code}: {run.said}"
        found = self.generations.states.get(state(self.target))
        newest = self.generations.newest
        assert found == newest, f"after the last run the target holds generation {found}, not {newest}"

    def _judged(self, contenders: Sequence[Contender], wrong: list[str]) -> Counter[str]:
        """What the runs said, and what the target's books say of them."""
        counts: Counter[str] = Counter()
        receipts = ledger.receipts(self.target)
        for each in contenders:
            published = [
                entry for owner, found in receipts.items() if each.plan.owner in owner.split("|") for entry in found
            ]
            wrong += each.violations(published)
            counts[f"{each.plan.door}: runs"] += 1
            counts[f"{each.plan.door}: {each.outcome(published)}"] += 1
            if each.befallen and each.plan.fate is not None:
                counts[f"{each.plan.fate.number.name} sent"] += 1
        history = ledger.read(self.target)
        seen = ledger.counted(history, _COUNTED) + Counter({"receipts": len(history.publishes)})
        counts.update(seen - self._seen)
        self._seen = seen
        wrong += ledger.violations(history)
        return counts

    def _demand(self, what: Callable[[], object]) -> list[str]:
        try:
            what()
        except AssertionError as error:
            return [str(error)]
        return []

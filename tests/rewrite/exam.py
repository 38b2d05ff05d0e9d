"""The rewrite exam: copies of a source that is reloaded all the time, while sessions of theirs are ended at any step.

What is published must be one load, whole, and not older than the copy; what fails must say that a retry can help.
``python -m tests.rewrite.exam --copies 300 --seed 7``; ``--ablation`` takes out what an export proves, and must then find
partial publishes, or this exam proves nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from psycopg.sql import SQL, Composed

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import installations
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from airflow_provider_safecopy.transfer import export
from tests.rewrite import source as sources
from tests.rewrite.source import DIVISIBLE, RELATIONS, Reloader
from tests.support.database import Database, Servers

Say = Callable[[str], None]

_MODES: dict[str, dict[str, Any]] = {
    "replace by delete_insert": {"publish": "delete_insert"},
    "replace by delta": {"publish": "delta"},
    "replace by swap": {"publish": "swap"},
    "replace by truncate_insert": {"publish": "truncate_insert", "transfer": "chunked"},
    "replace, two lanes": {"publish": "delete_insert", "parallel": 2},
    "upsert, missing deleted, two lanes": {
        "write_mode": "upsert",
        "key_columns": ("id",),
        "missing": "delete",
        "parallel": 2,
    },
    "append": {"write_mode": "append"},
    "incremental": {"write_mode": "incremental", "key_columns": ("id",), "cursor_column": "generation"},
    "full proof": {"publish": "delete_insert", "verify": "full"},
    "batch": {},
}
_SESSIONS = b"""SELECT pid FROM pg_stat_activity
WHERE application_name LIKE 'safecopy:%%' AND datname = current_database() ORDER BY pid"""


@dataclass(frozen=True)
class Result:
    """What one copy came to."""

    mode: str
    relation: str
    said: str
    violation: str | None = None

    def __str__(self) -> str:
        wrong = f" VIOLATION {self.violation}" if self.violation else ""
        return f"{self.mode} from {self.relation}: {self.said}{wrong}"


class Exam:
    """One pair of databases, and what came of the copies between them."""

    def __init__(self, source: Database, target: Database, seed: int) -> None:
        self.source, self.target, self.seed = source, target, seed
        self.dice = random.Random(seed)
        self.results: list[Result] = []
        for relation in RELATIONS:
            target.execute(sources.TARGET.format(relation).replace("SCHEMA dw", "SCHEMA IF NOT EXISTS dw"))

    def run(self, copies: int, *, say: Say, enough: Callable[[Result], bool] = lambda _: False) -> None:
        """Make so many copies, or fewer once there is `enough`."""
        with Reloader(self.source, random.Random(f"{self.seed}/reload")) as reloader:
            for number in range(copies):
                self.results.append(self._copy(number, reloader))
                say(f"{number + 1}: {self.results[-1]}")
                if enough(self.results[-1]):
                    return

    def _copy(self, number: int, reloader: Reloader) -> Result:
        mode = self.dice.choice(tuple(_MODES))
        relation = self.dice.choice(DIVISIBLE if "parallel" in _MODES[mode] else RELATIONS)
        if mode == "append":
            self.target.execute(f"TRUNCATE dw.{relation}")
        before, begun = sources.content(self.target, relation), reloader.generation
        specs = [self._spec(mode, each, number) for each in (RELATIONS if mode == "batch" else (relation,))]
        with self._adversary(reloader, random.Random(f"{self.seed}/{number}")):
            said = self._said(specs)
        after = sources.content(self.target, relation)
        wrong = _violation(mode, said, before, after, begun)
        return Result(mode, relation, said, wrong)

    def _said(self, specs: list[CopySpec]) -> str:
        try:
            if len(specs) > 1:
                report = pipeline.copy_tables(specs, self.source.endpoint, self.target.endpoint)
                failed = [each.error for each in report.failed]
                if failed and not all(error.retryable for error in failed):
                    return f"failed for good: {[str(error) for error in failed if not error.retryable]}"
                return "failed" if failed else "published"
            return pipeline.copy(specs[0], self.source.endpoint, self.target.endpoint).status
        except SafeCopyError as error:
            return f"failed: {type(error).__name__}" if error.retryable else f"failed for good: {error}"

    @staticmethod
    def _spec(mode: str, relation: str, number: int) -> CopySpec:
        options = dict(_MODES[mode])
        if mode == "append":
            options["append_key"] = f"{number}"
        return CopySpec(
            source_table=TableName("erp", relation),
            target_table=TableName("dw", relation),
            timeouts=Timeouts(connect=10, stall=20),
            **options,
        )

    @contextmanager
    def _adversary(self, reloader: Reloader, dice: random.Random) -> Iterator[None]:
        """Before the export's psql is started, let a reload come first, as often as not; and end a session at any time."""
        begin = export.start

        def start(*args: Any, **kwargs: Any) -> Any:
            deadline = time.monotonic() + dice.choice((0, 0.3))
            while dice.random() < 0.95 and not reloader.is_blocked() and time.monotonic() < deadline:
                time.sleep(0.005)
            return begin(*args, **kwargs)

        over = threading.Event()
        killer = threading.Thread(target=self._kill, args=(dice.uniform(0, 1.0), dice.random(), over))
        killer.start()
        try:
            with patch.object(export, "start", start):
                yield
        finally:
            over.set()
            killer.join()

    def _kill(self, after: float, which: float, over: threading.Event) -> None:
        """End one session of the copy, on either side, some time after it has begun; in half of all copies none."""
        if over.wait(after) or which > 0.5:
            return
        database = self.source if which > 0.2 else self.target
        with database.connect() as session:
            pids = [pid for (pid,) in session.execute(_SESSIONS).fetchall()]
            if pids:
                session.execute("SELECT pg_terminate_backend(%s)", [pids[int(which * 1000) % len(pids)]])


def _violation(mode: str, said: str, before: dict[int, int], after: dict[int, int], begun: int) -> str | None:
    """What is wrong with a target, if anything is."""
    if said.startswith("failed for good"):
        return "a retry would help, and that was not said"
    if said != "published":
        # Of a batch some tables may be published, and not the others.
        return None if after == before or mode == "batch" else f"it failed, and the target has changed: {after}"
    newest = max(after, default=0)
    whole = after.get(newest, 0) == sources.rows_of(newest)
    alone = len(after) == 1 or mode == "incremental"
    if newest < begun:
        return f"it published load {newest}, and load {begun} was there before it began"
    return None if whole and alone else f"no whole load: {after}, of {sources.rows_of(newest)}"


@contextmanager
def ablated() -> Iterator[None]:
    """Take out what an export proves: it says that all is well, whatever it has read."""

    def nothing(_: str) -> Composed:
        return SQL("SELECT '' AS safecopy_replaced, true AS safecopy_keeper").format()

    with patch.object(copy_script, "proof", nothing):
        yield


def main(arguments: list[str], say: Say = print) -> int:
    """Run the exam. Returns 0 where nothing was violated; with ``--ablation`` where something was."""
    parser = argparse.ArgumentParser(prog="make rewrite", description="Copy a source that is reloaded all the time.")
    parser.add_argument("--copies", type=int, default=300, help="how many; 300 by default")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of all that is drawn")
    parser.add_argument("--ablation", action="store_true", help="without the proof: must find partial publishes")
    options = parser.parse_args(arguments)
    servers = Servers()
    with ExitStack() as stack:
        stack.callback(servers.stop)
        stack.enter_context(patch.dict(os.environ, SAFECOPY_PSQL=str(installations()[0].psql)))
        if options.ablation:
            stack.enter_context(ablated())
        exam = Exam(servers.create(18, "UTF8", None), servers.create(18, "UTF8", None), options.seed)
        exam.run(options.copies, say=say)
    found = [result for result in exam.results if result.violation]
    for said, times in Counter(result.said.split(":")[0] for result in exam.results).most_common():
        say(f"{times:5} {said}")
    say(f"{len(found)} violations in {len(exam.results)} copies, seed {options.seed}.")
    return int(bool(found) is not options.ablation)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], lambda line: print(line, flush=True)))  # noqa: T201 -- what a person sees

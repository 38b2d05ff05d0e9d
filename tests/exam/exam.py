"""The exam: PostgreSQL's own regression database, copied relation by relation in each publish mode.

    python -m tests.exam.exam [--mode auto --mode swap ...] [--major 18] [--every] [--only PATTERN] [--json FILE]

Two servers are given the same suite. Each relation is then copied from the one to the other, into the table of its
name (views: into a table made like them), after that was made to differ. The exit code is 0 when nothing but what a
refusal names before anything is touched kept a relation from being copied, and the rest is equal in content and
catalog. EXAM_SQL names a source tree's `src/test/regress`; without it a package that carries the SQL is fetched.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import psycopg

from airflow_provider_safecopy.demo.servers import Installation, Server, installations
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.spec import Publish
from tests.exam import report
from tests.exam.load import load
from tests.exam.subject import Subject, families, one_of_each_shape, subjects
from tests.exam.suite import Suite
from tests.exam.trial import SHAPES, Examiner, Trial
from tests.support.fingerprint import Fingerprint, differences, present
from tests.support.place import place

MODES = tuple(mode for mode in get_args(Publish) if mode == "auto" or mode in STRATEGIES)
DATABASE = "regression"
# No autovacuum: what ANALYZE found is part of the fingerprint. Locks: one for each of thousands of relations.
_SETTINGS = {"wal_level": "logical", "autovacuum": "off", "max_locks_per_transaction": "512"}
_examiner: Examiner | None = None


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> int:
    options = _options().parse_args(arguments)
    suite, started = Suite.of(options.major), time.monotonic()
    installation = _installation(options.major)
    os.environ["SAFECOPY_PSQL"] = str(installation.psql)
    with ExitStack() as stack:
        servers = [stack.enter_context(_started(installation)) for _ in range(2)]
        say(f"PostgreSQL {_version(servers[0])}, {suite.told}")
        with ThreadPoolExecutor(2) as both:
            for loaded in both.map(lambda server: _loaded(server, suite, options), servers):
                say(f"loaded {loaded}")
        source, target = (server.conninfo(DATABASE) for server in servers)
        chosen = _chosen(target, options, say)
        before = _everything(target)
        trials = list(_trials(source, target, chosen, options, say))
        left = [each for each in differences(before, _everything(target)) if SHAPES not in each]
    say(report.printed(trials, options.mode or MODES, left))
    say(f"{len(trials)} copies asked for, {time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(trials), ensure_ascii=False, indent=1), "utf-8")
    return int(bool(left) or any(trial.findings for trial in trials))


def _loaded(server: Server, suite: Suite, options: argparse.Namespace) -> object:
    server.execute("postgres", f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
    told = load(suite, server.conninfo(DATABASE), server.installation.psql, keep=not options.as_it_ends)
    server.execute(DATABASE, f"CREATE SCHEMA {SHAPES}")
    return told


def _everything(conninfo: str) -> Fingerprint:
    """All there is in a database, so that nothing is gone and nothing left when all is over."""
    with psycopg.connect(conninfo) as session:
        return present(session)


def _chosen(target: str, options: argparse.Namespace, say: Callable[[str], None]) -> list[Subject]:
    found = [subject for subject in subjects(target) if re.search(options.only, str(subject))]
    chosen = found if options.every else one_of_each_shape(found)
    say(f"{len(found)} relations, of {len({each.shape for each in found})} shapes; {len(chosen)} are asked about")
    return chosen


def _trials(
    source: str, target: str, chosen: list[Subject], options: argparse.Namespace, say: Callable[[str], None]
) -> Iterator[Trial]:
    groups, modes = families(target, chosen), tuple(options.mode or MODES)
    spawn = multiprocessing.get_context("spawn")  # a fork would share what threads hold
    done, shown_at = 0, time.monotonic()
    with ProcessPoolExecutor(options.processes, spawn, _begin, (source, target)) as pool:
        for asked in as_completed([pool.submit(_ask, group, modes) for group in groups]):
            found = asked.result()
            done += len(found)
            yield from found
            for trial in found:
                if trial.findings:
                    say(f"  {report.headed(trial)}")
            if time.monotonic() > shown_at + 10:
                shown_at = time.monotonic()
                say(f"  {done} of {len(chosen) * len(modes)}")


def _begin(source: str, target: str) -> None:
    logging.disable(logging.WARNING)
    global _examiner  # noqa: PLW0603 -- one for each process of the pool
    _examiner = Examiner(source, target)


def _ask(group: list[Subject], modes: tuple[str, ...]) -> list[Trial]:
    assert _examiner is not None
    return [trial for subject in group for trial in _examiner.ask(subject, modes)]


def _started(installation: Installation) -> Server:
    return Server.start(installation, durable=False, settings=_SETTINGS, place=place())


def _version(server: Server) -> str:
    return str(server.execute("postgres", "SHOW server_version")[0][0])


def _installation(major: int) -> Installation:
    there = {each.major: each for each in installations()}
    if major not in there:
        raise SystemExit(f"PostgreSQL {major} is not here; there are {', '.join(map(str, there))}")
    return there[major]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make exam", description="Copy PostgreSQL's own regression database.")
    parser.add_argument("--mode", action="append", choices=MODES, help="of publishing; all by default")
    parser.add_argument("--major", type=int, default=18, help="of PostgreSQL, at both ends")
    parser.add_argument("--every", action="store_true", help="relation, not one of each shape")
    parser.add_argument("--as-it-ends", action="store_true", help="let the suite drop what it drops")
    parser.add_argument("--only", default="", metavar="PATTERN", help="relations whose schema.name matches")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="every copy with its outcome")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

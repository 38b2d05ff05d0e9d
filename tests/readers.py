"""Readers at every isolation level, while one table is published into again and again: what they may see, and did.

``python -m tests.readers --publishes 100`` prints a table of it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import installations
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.spec import CopySpec, Publish
from tests.support.database import ALWAYS, Database, Servers
from tests.support.readers import Readers, Sight, State, looking

MODES: tuple[Publish, ...] = tuple(mode for mode in get_args(Publish) if mode in STRATEGIES)
TABLE = '"영업"."고객"'
EMPTY: State = (0, 0)

_SHAPE = """
CREATE SCHEMA IF NOT EXISTS "영업";
CREATE TABLE {table} ("번호" bigint PRIMARY KEY, "이름" text NOT NULL, "금액" numeric(12,2));
CREATE INDEX ON {table} ("금액");
INSERT INTO {table} SELECT g, '{word} ' || g / {same}, g * 1.25 FROM generate_series({first}, {last}) g
"""
# Two states of the source: other rows vanish, come, change and stay each time one takes the other's place.
_STATES: dict[str, dict[str, Any]] = {
    '"영업"."고객 하나"': {"word": "고객", "same": 7, "first": 1, "last": 1000},
    '"영업"."고객 둘"': {"word": "손님", "same": 8, "first": 300, "last": 1700},
}
# How long a reader may wait for a lock, in ms: where none may wait at all, it says so at once.
_PATIENCE = {"delta": 5, "delete_insert": 5, "swap": 10_000, "truncate_insert": 60_000}


@dataclass(frozen=True)
class Observation:
    """What all readers saw of `publishes` of one mode between `states`, of which they were allowed to see any."""

    mode: Publish
    publishes: int
    states: frozenset[State]
    sights: tuple[Sight, ...]

    @property
    def wrong(self) -> list[str]:
        """All that nobody may see, in words."""
        return [
            f"{sight.isolation}{' early' * sight.early}: {each}" for sight in self.sights for each in self._of(sight)
        ]

    def _of(self, sight: Sight) -> Sequence[str]:
        # TRUNCATE is no part of MVCC: who has an older snapshot finds nothing, as documented.
        allowed = self.states
        if self.mode == "truncate_insert" and sight.isolation != "READ COMMITTED":
            allowed = allowed | {EMPTY}
        found = [f"saw {state}, which is neither" for state in sorted(sight.states - allowed)]
        if sight.torn and sight.isolation != "READ COMMITTED":
            found.append(f"{sight.torn} transactions saw more than one state")
        return [*found, *sight.errors]


def make(source: Database, target: Database) -> frozenset[State]:
    """Two states in the source, the first of them in the target too. Returns what readers may see."""
    for table, state in _STATES.items():
        source.execute(_SHAPE.format(table=table, **state))
    target.execute(_SHAPE.format(table=TABLE, **next(iter(_STATES.values()))))
    return frozenset((count, int(total)) for table in _STATES for count, total in source.rows(looking(table)))


def observe(mode: Publish, publishes: int, source: Database, target: Database) -> Observation:
    """Publish so often, the two states by turns, before the readers' eyes. The databases are empty beforehand."""
    states = make(source, target)
    first, second = (CopySpec.of(source_table=table, target_table=TABLE, publish=mode) for table in _STATES)
    with Readers(target.conninfo, TABLE, lock_timeout=_PATIENCE[mode]) as readers:
        for number in range(publishes):
            pipeline.copy((second, first)[number % 2], source.endpoint, target.endpoint)
            readers.look()
    return Observation(mode, publishes, states, readers.sights)


def _row(seen: Observation) -> str:
    reads, longest = sum(sight.reads for sight in seen.sights), max(sight.longest for sight in seen.sights)
    overtaken = sum(sight.overtaken for sight in seen.sights)
    names = {state: f"{state[0]:,} rows" for state in seen.states | {EMPTY}}
    found = sorted({names.get(state, f"WRONG: {state}") for sight in seen.sights for state in sight.states})
    return f"{seen.mode:16}{seen.publishes:>10}{reads:>9}{overtaken:>11}{longest * 1000:>13.1f}  {', '.join(found)}"


def main() -> int:
    """Observe each mode, print the table, and what was wrong. The exit code says whether anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.readers", description=__doc__)
    parser.add_argument("--publishes", type=int, default=100, help="of each mode")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    asked = parser.parse_args()
    os.environ.setdefault("SAFECOPY_PSQL", str(installations()[0].psql))
    servers = Servers()
    wrong: list[str] = []
    _say(f"{'mode':16}{'publishes':>10}{'reads':>9}{'overtaken':>11}{'longest, ms':>13}  seen")
    try:
        for mode in asked.modes:
            source, target = (servers.create(ALWAYS[-1], "UTF8", None) for _ in range(2))
            seen = observe(mode, asked.publishes, source, target)
            _say(_row(seen))
            wrong += [f"{mode}: {each}" for each in seen.wrong]
            servers.drop(source)
            servers.drop(target)
    finally:
        servers.stop()
    _say(*wrong)
    return bool(wrong)


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

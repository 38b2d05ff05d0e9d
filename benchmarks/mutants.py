"""The lock's SQL with one fault after another: each must be noticed, or the tests of the lock prove too little.

    python -m benchmarks.mutants [WORDS ...]

Runs the directed examples and the state machine against every mutant of `tests/lock/mutants.py`, or against those
whose fault holds one of the words. Ends with 1 when one survives, or when the real SQL is found fault with.
"""

from __future__ import annotations

import sys
import time
from itertools import count

from airflow_provider_safecopy.demo.servers import Server, installations
from tests.lock.mutants import MUTANTS, killed_by
from tests.lock.world import Statements, World
from tests.support.database import Database

EXAMPLES = 300
_NUMBERS = count()


def main(words: list[str]) -> int:
    """Run, print, judge."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.fault for word in words)]
    survivors = 0
    with Server.start(installations()[0], durable=False) as server:

        def made(changes: dict[str, Statements]) -> World:
            name = f"mutant_{next(_NUMBERS)}"
            server.execute("postgres", f"CREATE DATABASE {name}")
            return World.made(Database(server, name), changes)

        for fault, changes in [("(none)", {}), *((mutant.fault, mutant.changes()) for mutant in chosen)]:
            began = time.monotonic()
            killers = killed_by(changes, made, EXAMPLES)
            survivors += bool(killers) == (fault == "(none)")
            seconds = time.monotonic() - began
            print(f"{fault:48} {seconds:5.1f} s  {', '.join(killers) or 'nobody'}", flush=True)  # noqa: T201 -- its purpose
    print(f"{len(chosen)} mutants, {survivors} judged wrongly")  # noqa: T201 -- as above
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

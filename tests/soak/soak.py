"""The soak: faults at any step and rivals by turns, for minutes, by a seed; and whether the one promise was ever broken.

``python -m tests.soak.soak --minutes 30 --seed 7``; ``--only 17`` or ``--only r3`` repeats one number of that seed.
What is drawn is the same each time; what a scheduler or a network makes of it is not.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.soak import ledger, tally
from tests.soak.airflow import Airflow
from tests.soak.attempt import Attempt, Course, Draw
from tests.soak.faults import FAULTS
from tests.soak.ground import Hosts
from tests.soak.rivals import Arena
from tests.soak.tally import Outcome, Round
from tests.support.database import Database

Say = Callable[[str], None]
Spoil = Callable[[Database], object]


class Soak:
    """Attempts and rounds, one after the other, and what came of them."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack, say: Say, spoil: Spoil) -> None:
        self._options, self._say, self._spoil = options, say, spoil
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="safecopy soak ")))
        hosts = Hosts.start()
        stack.callback(hosts.stop)
        airflow = None if options.no_airflow else stack.enter_context(Airflow.open())
        self._course = Course(hosts, directory)
        self._arena = Arena(hosts.pair("재고"), directory, airflow)
        self._among = [each for each in FAULTS if options.fault in each.name]
        self.outcomes: list[Outcome] = []
        self.rounds: list[Round] = []

    def attempt(self, number: int) -> float:
        """How long it took, in seconds."""
        began = time.monotonic()
        draw = Draw.of(self._options.seed, number, self._among)
        self.outcomes.append(Attempt(self._course, draw, self._spoil).make())
        self._tell(self.outcomes[-1])
        return time.monotonic() - began

    def hold_round(self, number: int) -> float:
        """How long it took, in seconds."""
        began = time.monotonic()
        name, dice = f"r{number}", random.Random(f"{self._options.seed}/round {number}")
        plans = self._arena.plans(name, dice, self._options.rivals)
        self.rounds.append(self._arena.hold(name, plans, dice, self._spoil))
        self._tell(self.rounds[-1])
        return time.monotonic() - began

    def go_on(self) -> None:
        """Both by turns, whichever has had less time so far, until the time is over, or the numbers wanted are made."""
        options, end = self._options, time.monotonic() + self._options.minutes * 60
        spent = {"attempt": 0.0, "round": 0.0}
        while time.monotonic() < end:
            open_ = {
                "attempt": len(self.outcomes) < options.attempts,
                "round": len(self.rounds) < options.rounds,
            }
            if not any(open_.values()):
                break
            turn = min((half for half in open_ if open_[half]), key=lambda half: spent[half])
            if turn == "attempt":
                spent[turn] += self.attempt(len(self.outcomes) + 1)
            else:
                spent[turn] += self.hold_round(len(self.rounds) + 1)

    def books(self) -> list[str]:
        """What the books of the single faults' target say at the very end."""
        pair = self._course.pair
        if pair["target"].value("SELECT to_regclass('safecopy.receipt') IS NULL"):
            return []  # they were thrown away with the databases of a violation
        return list(ledger.violations(ledger.read(pair["target"])))

    def _tell(self, what: Outcome | Round) -> None:
        self._say(f"seed {self._options.seed} {what}")
        for each in what.violations:
            self._say(f"    VIOLATION {each}")


def main(arguments: list[str], say: Say = print, spoil: Spoil = lambda _: None) -> int:
    """`spoil` breaks a target where nobody may, so that a test can see the soak notice it."""
    options = _options().parse_args(arguments)
    began = time.monotonic()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background job; and so would be all we start
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with ExitStack() as stack:
        soak = Soak(options, stack, say, spoil)
        if options.only is None:
            soak.go_on()
        elif options.only.startswith("r"):
            soak.hold_round(int(options.only[1:]))
        else:
            soak.attempt(int(options.only))
        books = soak.books()
    say(tally.printed(soak.outcomes, soak.rounds))
    for each in books:
        say(f"VIOLATION in the books: {each}")
    found = tally.violations(soak.outcomes, soak.rounds) + len(books)
    say(f"{found} violations in {(time.monotonic() - began) / 60:.1f} minutes, seed {options.seed}.")
    return int(bool(found))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make soak", description="Break copies on purpose, for minutes.")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long; 30 by default")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of all that is drawn")
    parser.add_argument("--only", metavar="NUMBER", help="repeat one attempt (17) or one round of rivals (r3)")
    parser.add_argument(
        "--fault",
        default="",
        metavar="WORDS",
        help="only faults with these words in their name; numbers are others then",
    )
    parser.add_argument("--attempts", type=int, default=sys.maxsize, help="at most so many single faults")
    parser.add_argument("--rounds", type=int, default=sys.maxsize, help="at most so many rounds of rivals")
    parser.add_argument("--rivals", type=int, help="so many at once; by turns 2, 4 and 8")
    parser.add_argument("--no-airflow", action="store_true", help="rivals are commands alone")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _say))

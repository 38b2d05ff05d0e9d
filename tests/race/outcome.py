"""What came of a race: what happened how often, what must not have happened, and both as a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.race import check, report
from tests.race.check import Violation
from tests.race.history import History
from tests.race.marshal import Marshal

CHECKS = {
    "C1": "publish after a newer grant",
    "C1b": "publish after its attempt's end",
    "C2": "token out of order",
    "C3": "publishes that overlap",
    "C4": "acknowledged, and lost",
    "C5": "mixture or old content seen",
    "C6": "content is not the last publish",
    "C7": "lock stays busy, or deadlock",
    "error": "unexpected error of a racer",
    "A1": "staging was felt by others",
    "A2": "published is not what was proven",
    "A3": "unexpected error of a copy",
}
_BY_KIND = {
    "grants": ("grant",),
    "takeovers, stale": ("takeover-stale",),
    "takeovers, crashed": ("takeover-crash",),
    "takeovers, dead": ("takeover-dead",),
    "joins": ("join",),
    "supersedes": ("supersede",),
    "releases and leaves": ("release", "leave"),
    "revokes": ("revoke",),
    "freed by force, reaped": ("force-release", "reap"),
}
_BLOCKED = "canceling statement due to lock timeout"
_TERMINATED = "terminating connection due to administrator command"
_WRONG_IN_LOG = re.compile(r".*(?:deadlock detected|PANIC:|was terminated by signal).*")


@dataclass(frozen=True)
class Outcome:
    """One race, judged."""

    name: str
    seconds: float
    counts: dict[str, int]
    violations: tuple[Violation, ...]

    @property
    def found(self) -> Counter[str]:
        """How many violations of which check."""
        return Counter(violation.check for violation in self.violations)

    def as_dict(self) -> dict[str, Any]:
        found = dict(self.found)
        return {"name": self.name, "seconds": self.seconds, "counts": self.counts, "violations": found}


def judge(
    marshal: Marshal, history: History, log: str, *, allow_deadlocks: bool
) -> tuple[dict[str, int], list[Violation]]:
    """All counts and all violations but those of C7 that time shows."""
    words = list(report.read(marshal.directory))
    marks = [word.of["mark"] for word in words if word.what == "published"]
    sights = [(word.of["name"], word.of["state"]) for word in words if word.what == "seen"]
    violations = check.history(history)
    violations += [*check.acknowledged(history, marks), *check.seen(history, sights), *check.last(history)]
    violations += [Violation("error", word.of["text"]) for word in words if word.what == "error"]
    if not allow_deadlocks:
        violations += [Violation("C7", f"in the server's log: {line}") for line in _WRONG_IN_LOG.findall(log)]
    return _counts(marshal, history, words, log), violations


def _counts(marshal: Marshal, history: History, words: Sequence[report.Word], log: str) -> dict[str, int]:
    said = Counter(word.what for word in words)
    marks = {publish.mark for publish in history.publishes}
    in_flight = [word.of["mark"] for word in words if word.of.get("at") == "COMMIT sent"]
    (sight,) = [word.of for word in words if word.what == "looked on"]
    counts = {name: sum(history.kinds[kind] for kind in kinds) for name, kinds in _BY_KIND.items()}
    return counts | {
        "sent away busy": said["busy"],
        "publishes": len(marks),
        "publishes acknowledged": said["published"],
        "blocked by a publisher": log.count(_BLOCKED),
        "sessions terminated": log.count(_TERMINATED),
        "fenced at heartbeat": said["lost at heartbeat"],
        "fenced at publish": said["lost at publish"],
        "stopped themselves": said["stopped itself"],
        "cut off otherwise": said["cut off"],
        "stops": marshal.counts["stops"],
        "deaths": sum(count for what, count in marshal.counts.items() if what.startswith("ended by")),
        "deaths by a takeover": marshal.counts["ended by SIGTERM"],
        "hit with COMMIT in flight": len(in_flight),
        "of these committed": len(marks & set(in_flight)),
        "snapshots observed": sight["snapshots"],
        "rows observed": sight["rows"],
    }


def text_of(log: Path, since: int) -> str:
    """The server's log from a byte on."""
    return log.read_bytes()[since:].decode(errors="replace")


def printed(outcomes: Sequence[Outcome]) -> str:
    """The table: a row for each count and each check, a column for each race."""
    rows: list[tuple[str, list[str]]] = [
        ("", [each.name for each in outcomes]),
        ("seconds", [f"{each.seconds:.0f}" for each in outcomes]),
        *((name, [f"{each.counts.get(name, 0):,}" for each in outcomes]) for name in outcomes[0].counts),
        *(
            (f"violations {name}: {meaning}", [f"{each.found[name]:,}" for each in outcomes])
            for name, meaning in CHECKS.items()
        ),
    ]
    wide = max(len(name) for name, _ in rows)
    return "\n".join(name.ljust(wide) + "".join(cell.rjust(14) for cell in cells) for name, cells in rows)

"""What the exam tells: a table of modes, the refusals by reason, and what should not be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from tests.exam.subject import KINDS
from tests.exam.trial import Outcome, Trial

_EXAMPLES = 2


def printed(trials: Sequence[Trial], modes: Sequence[str], left: Sequence[str] = ()) -> str:
    """`left` is what is gone from the whole database, or left in it, when all is over."""
    return "\n".join([*_counts(trials, modes), "", *_reasons(trials), "", *_findings(trials, left)])


def headed(trial: Trial) -> str:
    kind = KINDS[trial.subject.kind].removesuffix("s")
    return f"{trial.mode}: {kind} {trial.subject} ({trial.outcome}, {trial.publish or trial.code})"


def as_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [{**vars(trial), "subject": str(trial.subject), "kind": KINDS[trial.subject.kind]} for trial in trials]


def _counts(trials: Sequence[Trial], modes: Sequence[str]) -> list[str]:
    """`changed`: copies before which the target held other rows."""
    outcomes = get_args(Outcome)
    rows = [["mode", "relations", *outcomes, "changed", "chosen ways"]]
    for mode in modes:
        mine = [trial for trial in trials if trial.mode == mode]
        counts = Counter(trial.outcome for trial in mine)
        ways = Counter(trial.publish for trial in mine if trial.publish)
        told = ", ".join(f"{way} {count}" for way, count in ways.most_common())
        changed = sum(trial.moved for trial in mine)
        rows.append([mode, str(len(mine)), *(str(counts[each]) for each in outcomes), str(changed), told])
    return _aligned(rows)


def _reasons(trials: Sequence[Trial]) -> Iterator[str]:
    """Why what was not copied was not, the most frequent first, with examples."""
    kinds = ("refused", "untried", "unreadable", "not borne", "altered")
    groups: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in trials:
        if trial.outcome in kinds:
            reason = trial.code if trial.outcome == "refused" else f"{trial.code} {trial.why}".strip()
            groups.setdefault((trial.outcome, trial.mode, reason), []).append(trial)
    rows = [["outcome", "mode", "copies", "reason", "for example"]]
    for (outcome, mode, reason), found in sorted(groups.items(), key=lambda item: (item[0][:2], -len(item[1]))):
        examples = ", ".join(str(trial.subject) for trial in found[:_EXAMPLES])
        rows.append([outcome, mode, str(len(found)), reason[:90], examples])
    yield from _aligned(rows) if len(rows) > 1 else ["Nothing was refused."]


def _findings(trials: Sequence[Trial], left: Sequence[str]) -> Iterator[str]:
    found = [trial for trial in trials if trial.findings]
    yield f"{len(found)} findings."
    for trial in found:
        yield headed(trial)
        yield from (f"    {each}" for each in trial.findings)
    if left:
        yield "Afterwards, in the whole database:"
        yield from (f"    {each}" for each in left)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

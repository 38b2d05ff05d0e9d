"""One relation copied in one publish mode, and what is held against it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from traceback import format_exception
from typing import Literal, Self

import psycopg
from psycopg.sql import SQL

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import PlanError, SafeCopyError
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.timeouts import Timeouts
from tests.exam.subject import Subject
from tests.exam.table import PINNED, Rehearsal, Table, content, first_line
from tests.ground.fingerprint import differences, look

Outcome = Literal["copied", "refused", "untried", "unreadable", "not borne", "altered", "failed", "differing"]
SHAPES = "exam_shapes"
_TIMEOUTS = Timeouts(connect=10, export=60, import_=60, stall=30, verify=60, publish=20)
_SHOWN = 3
# These take every row out first; foreign keys to them then speak, at once or at COMMIT.
_REWRITING = ("delete_insert", "truncate_insert")
_REFERRED = ("23503", "23001")


@dataclass(frozen=True)
class Trial:
    """What came of it. `code` and `why` are the refusal's or the error's; `findings` are what should not be.

    `untried`: a view like which no table can be made. `unreadable`: the source itself cannot be read. `not borne`: the
    table does not take these rows by plain SQL either. `altered`: it does, and its own triggers make others of them.
    All these are as they must be, and but for the last leave the target alone; `failed` is an error that need not be.
    """

    subject: Subject
    mode: str
    outcome: Outcome
    publish: str = ""
    code: str = ""
    why: str = ""
    findings: tuple[str, ...] = ()
    moved: bool = False
    seconds: float = 0.0


class Examiner:
    """Holds a session of its own at each end. Neither belongs to what is examined."""

    def __init__(self, source: str, target: str) -> None:
        self._ends = Endpoint.from_conninfo(source), Endpoint.from_conninfo(target)
        self._source = psycopg.connect(source, autocommit=True)
        self._target = psycopg.connect(target, autocommit=True)
        for session in (self._source, self._target):
            session.execute(PINNED.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()
        self._target.close()

    def ask(self, subject: Subject, modes: tuple[str, ...]) -> list[Trial]:
        """The subject in each mode. What it leaves is equal to the source, or as it was."""
        try:
            wanted = content(self._source, subject.sql)
            again = wanted if subject.is_table else content(self._source, subject.sql)
        except psycopg.Error as error:
            wanted, again = None, None
            unreadable = first_line(error)
        else:
            unreadable = ""
        stable = Counter(wanted or ()) == Counter(again or ())
        table = self._table(subject)
        if isinstance(table, str):
            return [Trial(subject, mode, "untried", why=table) for mode in modes]
        return [self._trial(subject, mode, table, wanted, unreadable, stable=stable) for mode in modes]

    def _table(self, subject: Subject) -> Table | str:
        """The table to copy into: the one of the same name, else one made like the view; or why there is none."""
        if subject.is_table:
            return Table(self._target, subject.schema, subject.name, alone=subject.kind == "r")
        table = Table(self._target, SHAPES, f"v{subject.oid}", alone=True)
        try:
            self._target.execute(
                SQL("CREATE TABLE {} AS SELECT * FROM {} WITH NO DATA").format(table.name, subject.sql)
            )
        except psycopg.Error as error:
            return first_line(error)
        return table

    def _trial(
        self, subject: Subject, mode: str, table: Table, wanted: list[str] | None, unreadable: str, *, stable: bool
    ) -> Trial:
        started = time.monotonic()
        saved = _prepared(table)
        before, near = table.content(), table.near()
        hung = look(self._target, table.schema, table.table, alone=True)
        made = partial(Trial, subject=subject, mode=mode)
        try:
            report = pipeline.copy(self._spec(subject, table, mode), *self._ends)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is told
            trial = self._failed(made, error, table, unreadable, subject)
            unchanged: list[str] | None = before
        else:
            trial = made(outcome="copied", publish=report.publish, moved=Counter(before) != Counter(wanted or ()))
            unchanged = wanted if stable else None
        found = self._compared(table, unchanged)
        if found and trial.outcome == "copied" and self._altered(subject, table, mode, wanted or []):
            trial, found = replace(trial, outcome="altered", why=found[0]), []
        found += differences(hung, look(self._target, table.schema, table.table, alone=True))
        found += [f"rows of {name} changed" for name, rows in table.near().items() if rows != near.get(name)]
        if trial.outcome != "copied" and saved is not None:
            table.restore(saved)
        return _judged(trial, found, time.monotonic() - started)

    def _spec(self, subject: Subject, table: Table, mode: str) -> CopySpec:
        return CopySpec.of(
            source_table=(subject.schema, subject.name),
            target_table=(table.schema, table.table),
            publish=mode,
            allow_empty=True,
            timeouts=_TIMEOUTS,
        )

    def _failed(self, made: partial[Trial], error: Exception, table: Table, unreadable: str, subject: Subject) -> Trial:
        if isinstance(error, PlanError):
            codes = "+".join(sorted({refusal.code for refusal in error.refusals}))
            return made(outcome="refused", code=codes, why="; ".join(str(refusal) for refusal in error.refusals))
        code = f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".strip()
        if not isinstance(error, SafeCopyError):
            return made(outcome="failed", code=code, why="".join(format_exception(error)[-3:]))
        if unreadable:
            return made(outcome="unreadable", code=code, why=unreadable)
        if why := self._rehearsed(subject, table, made.keywords["mode"]).why:
            return made(outcome="not borne", code=code, why=why)
        return made(outcome="failed", code=code, why=str(error))

    def _rehearsed(self, subject: Subject, table: Table, mode: str) -> Rehearsal:
        """What plain statements make of the source's rows."""
        rows = Table(self._source, subject.schema, subject.name, alone=False).save(table.columns())
        done = table.rehearse(rows, truncate=mode == "truncate_insert")
        # Where rows that stay equal are let alone, nothing refers to what goes.
        if mode in _REWRITING or not done.why.startswith(_REFERRED):
            return done
        return table.rehearse(rows, silently=True)

    def _altered(self, subject: Subject, table: Table, mode: str, wanted: list[str]) -> bool:
        """Whether what is not due is what the table's own triggers make of it."""
        held = table.content()
        not_due = Counter(held) - Counter(wanted)
        return len(held) == len(wanted) and not_due <= Counter(self._rehearsed(subject, table, mode).held)

    def _compared(self, table: Table, wanted: list[str] | None) -> list[str]:
        if wanted is None:
            return []
        held = table.content()
        if held == wanted:
            return []
        missing, extra = Counter(wanted) - Counter(held), Counter(held) - Counter(wanted)
        told = f"content: {len(held)} rows where {len(wanted)} were due"
        return [f"{told}; missing {list(missing)[:_SHOWN]}, not due {list(extra)[:_SHOWN]}"]


def _prepared(table: Table) -> bytes | None:
    """Make the table differ. Its rows before that; None where they could not be put back, and it is left as it is."""
    try:
        saved = table.save()
        table.restore(saved)
    except psycopg.Error:
        return None
    table.disturb()
    return saved


def _judged(trial: Trial, found: list[str], seconds: float) -> Trial:
    outcome = trial.outcome
    if trial.outcome == "failed":
        found = [f"{trial.code}: {trial.why}", *found]
    elif found:
        outcome = "differing"
    return replace(trial, outcome=outcome, findings=tuple(found), seconds=seconds)

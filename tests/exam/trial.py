"""One relation copied in one publish mode, and what is held against it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from traceback import format_exception
from typing import Literal, Self

import psycopg
from psycopg.sql import SQL

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, SafeCopyError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from tests.exam.subject import Subject
from tests.exam.table import PINNED, Rehearsal, Table, content, first_line
from tests.support.fingerprint import differences, look

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


@dataclass(frozen=True)
class _Due:
    """What the source holds, or why nobody can read it. Not `stable`: a view that never answers the same twice."""

    rows: list[str]
    unreadable: str = ""
    stable: bool = True


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
        due, table = self._due(subject), self._table(subject)
        if isinstance(table, str):
            return [Trial(subject, mode, "untried", why=table) for mode in modes]
        return [self._trial(subject, mode, table, due) for mode in modes]

    def _due(self, subject: Subject) -> _Due:
        try:
            rows = content(self._source, subject.sql)
            return _Due(rows, stable=subject.is_table or rows == content(self._source, subject.sql))
        except psycopg.Error as error:
            return _Due([], unreadable=first_line(error))

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

    def _trial(self, subject: Subject, mode: str, table: Table, due: _Due) -> Trial:
        started, asked = time.monotonic(), Trial(subject, mode, "copied")
        saved = _prepared(table)
        before, near = table.content(), table.near()
        hung = look(self._target, table.schema, table.table, alone=True)
        try:
            report = pipeline.copy(_spec(asked, table), *self._ends)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is told
            trial = self._failed(asked, error, table, due)
            found = _compared(table.content(), before)
        else:
            trial = replace(asked, publish=report.publish, moved=before != due.rows)
            found = _compared(table.content(), due.rows) if due.stable else []
            if found and self._altered(trial, table, due):
                trial, found = replace(trial, outcome="altered", why=found[0]), []
        found += differences(hung, look(self._target, table.schema, table.table, alone=True))
        found += [f"rows of {name} changed" for name, rows in table.near().items() if rows != near.get(name)]
        if trial.outcome != "copied" and saved is not None:
            table.restore(saved)
        return _judged(trial, found, time.monotonic() - started)

    def _failed(self, asked: Trial, error: Exception, table: Table, due: _Due) -> Trial:
        if isinstance(error, PlanError):
            codes = "+".join(sorted({refusal.code for refusal in error.refusals}))
            return replace(asked, outcome="refused", code=codes, why="; ".join(map(str, error.refusals)))
        code = f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".strip()
        if not isinstance(error, SafeCopyError):
            return replace(asked, outcome="failed", code=code, why="".join(format_exception(error)[-3:]))
        if due.unreadable:
            return replace(asked, outcome="unreadable", code=code, why=due.unreadable)
        chosen = replace(asked, code=code, publish=pipeline.plan(_spec(asked, table), *self._ends).publish)
        if why := self._rehearsed(chosen, table).why:
            return replace(chosen, outcome="not borne", why=why)
        return replace(chosen, outcome="failed", why=str(error))

    def _rehearsed(self, trial: Trial, table: Table) -> Rehearsal:
        """What plain statements make of the source's rows, in the way that was chosen."""
        rows = Table(self._source, trial.subject.schema, trial.subject.name, alone=False).save(table.columns())
        done = table.rehearse(rows, truncate=trial.publish == "truncate_insert")
        # Where rows that stay equal are let alone, nothing refers to what goes.
        if trial.publish in _REWRITING or not done.why.startswith(_REFERRED):
            return done
        return table.rehearse(rows, silently=True)

    def _altered(self, trial: Trial, table: Table, due: _Due) -> bool:
        """Whether what is not due is what the table's own triggers make of it."""
        held = table.content()
        not_due = Counter(held) - Counter(due.rows)
        return len(held) == len(due.rows) and not_due <= Counter(self._rehearsed(trial, table).held)


def _spec(asked: Trial, table: Table) -> CopySpec:
    return CopySpec.of(
        source_table=(asked.subject.schema, asked.subject.name),
        target_table=(table.schema, table.table),
        publish=asked.mode,
        min_rows=0,
        timeouts=_TIMEOUTS,
    )


def _compared(held: list[str], wanted: list[str]) -> list[str]:
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

"""One relation copied in one publish mode, and what is held against it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import psycopg
from psycopg.sql import SQL, Identifier

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import PlanError, SafeCopyError
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.timeouts import Timeouts
from tests.exam.subject import QUESTIONS, Subject
from tests.exam.table import PINNED, Table, content
from tests.ground.fingerprint import differences, look

Outcome = Literal["copied", "refused", "unreadable", "not borne", "failed", "differing"]
SHAPES = "exam_shapes"
_TIMEOUTS = Timeouts(connect=10, export=60, import_=60, stall=30, verify=60, publish=20)
_SHOWN = 3
# These take every row out first; foreign keys to them then speak, at once or at COMMIT.
_REWRITING = ("delete_insert", "truncate_insert")
_REFERRED = ("23503", "23001")


@dataclass(frozen=True)
class Trial:
    """What came of it. `code` and `why` are the refusal's or the error's; `findings` are what should not be.

    `unreadable`: the source itself cannot be read. `not borne`: the table takes these rows from nobody. Both are
    errors as they must be, and leave the target alone; `failed` is one that need not have been.
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
            unreadable = _first_line(error)
        else:
            unreadable = ""
        stable = Counter(wanted or ()) == Counter(again or ())
        table = self._table(subject)
        if isinstance(table, str):
            return [
                Trial(subject, mode, "unreadable", why=f"no table can be made of its shape: {table}") for mode in modes
            ]
        return [self._trial(subject, mode, table, wanted, unreadable, stable=stable) for mode in modes]

    def _table(self, subject: Subject) -> Table | str:
        """The table to copy into: the one of the same name, else one made like the view; or why there is none."""
        if subject.is_table:
            return Table(self._target, subject.sql, subject.oid, alone=subject.kind == "r")
        name = Identifier(SHAPES, f"v{subject.oid}")
        try:
            self._target.execute(SQL("CREATE TABLE {} AS SELECT * FROM {} WITH NO DATA").format(name, subject.sql))
        except psycopg.Error as error:
            return _first_line(error)
        ((oid,),) = self._target.execute("SELECT %s::regclass::oid", [name.as_string()]).fetchall()
        return Table(self._target, name, oid, alone=True)

    def _trial(
        self, subject: Subject, mode: str, table: Table, wanted: list[str] | None, unreadable: str, *, stable: bool
    ) -> Trial:
        started = time.monotonic()
        saved = _prepared(table)
        before, near = table.content(), self._near(table)
        hung = self._hung(table)
        made = partial(Trial, subject=subject, mode=mode)
        try:
            report = pipeline.copy(self._spec(subject, table, mode), *self._ends)
        except SafeCopyError as error:
            trial = self._failed(made, error, table, unreadable, subject)
            unchanged: list[str] | None = before
        else:
            trial = made(outcome="copied", publish=report.publish, moved=Counter(before) != Counter(wanted or ()))
            unchanged = wanted if stable else None
        found = [*self._compared(table, unchanged), *differences(hung, self._hung(table))]
        found += [f"rows of {name} changed" for name, rows in self._near(table).items() if rows != near.get(name)]
        if trial.outcome != "copied" and saved is not None:
            table.restore(saved)
        return _judged(trial, found, time.monotonic() - started)

    def _spec(self, subject: Subject, table: Table, mode: str) -> CopySpec:
        names = self._target.execute(
            "SELECT nspname::text, relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE c.oid = %s",
            [table.oid],
        )
        return CopySpec.of(
            source_table=(subject.schema, subject.name),
            target_table=(names.fetchone() or ()),
            publish=mode,
            allow_empty=True,
            timeouts=_TIMEOUTS,
        )

    def _failed(
        self, made: partial[Trial], error: SafeCopyError, table: Table, unreadable: str, subject: Subject
    ) -> Trial:
        if isinstance(error, PlanError):
            codes = "+".join(sorted({refusal.code for refusal in error.refusals}))
            return made(outcome="refused", code=codes, why="; ".join(str(refusal) for refusal in error.refusals))
        code = f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".strip()
        if unreadable:
            return made(outcome="unreadable", code=code, why=unreadable)
        columns = table.columns()
        listed = SQL(", ").join(map(Identifier, columns))
        query = SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(listed, subject.sql)
        with self._source.cursor().copy(query) as rows:
            held = b"".join(bytes(block) for block in rows)
        if why := self._borne(table, made.keywords["mode"], columns, held):
            return made(outcome="not borne", code=code, why=why)
        return made(outcome="failed", code=code, why=str(error))

    def _borne(self, table: Table, mode: str, columns: list[str], rows: bytes) -> str:
        """Why the table does not bear these rows. Where rows that stay equal are let alone, nothing refers to what goes."""
        why = table.bears(columns, rows)
        if mode in _REWRITING or not why.startswith(_REFERRED):
            return why
        return table.bears(columns, rows, silently=True)

    def _compared(self, table: Table, wanted: list[str] | None) -> list[str]:
        if wanted is None:
            return []
        held = table.content()
        if held == wanted:
            return []
        missing, extra = Counter(wanted) - Counter(held), Counter(held) - Counter(wanted)
        told = f"content: {len(held)} rows where {len(wanted)} were due"
        return [f"{told}; missing {list(missing)[:_SHOWN]}, not due {list(extra)[:_SHOWN]}"]

    def _near(self, table: Table) -> dict[str, Any]:
        """The rows of the tables near by, which are nobody's to change. Where they hang below it, they are its own."""
        found = self._target.execute(QUESTIONS["neighbours"], {"oid": table.oid}).fetchall() if table.alone else []
        return {f"{schema}.{name}": content(self._target, Identifier(schema, name)) for schema, name in found}

    def _hung(self, table: Table) -> Any:
        ((schema, name),) = self._target.execute(
            "SELECT nspname::text, relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE c.oid = %s",
            [table.oid],
        ).fetchall()
        return look(self._target, schema, name, alone=True)


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
    return Trial(
        trial.subject, trial.mode, outcome, trial.publish, trial.code, trial.why, tuple(found), trial.moved, seconds
    )


def _first_line(error: psycopg.Error) -> str:
    return f"{error.sqlstate} {str(error).splitlines()[0] if str(error) else type(error).__name__}"

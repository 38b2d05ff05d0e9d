"""A survey: what drafting asks of each table, asked of all tables of a batch at once, and answered from memory after.

A question nobody foresaw is asked as ever; so the worst a survey can do is to be slow. Its answers are of one moment:
for drafting alone, since what counts at the publish is asked again under the table's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString, cast

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy import sql, wire
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.transfer import catalog, refusal
from airflow_provider_safecopy.transfer.model import Extent, MiB
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.session import Session, SettingsChangedError
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.statements import survey as statements

log = logging.getLogger(__name__)

_CATALOG = sql.load("catalog")
_SURVEY = sql.load("survey")
_DEFINE = sql.load("define")
_KEY = sql.load("key")
_WATERMARK = sql.load("watermark")

SMALL_ROWS = 10_000
SMALL_BYTES = MiB
"""A table of a batch that is no larger, on both sides, is not swapped unless that was asked for."""

TINY_BYTES = 256 * 1024
"""One that is no larger than this, and has no triggers or subscribers, has all of its rows written anew."""

_Row = dict[str, Any]
_Key = tuple[str, str]


@dataclass(frozen=True)
class Survey(Session):
    """A session whose answers are remembered, many of them before they are asked for. For drafting alone."""

    behind: Session = field(repr=False, compare=False)
    answers: dict[_Key, list[_Row]] = field(default_factory=dict, repr=False, compare=False)

    composed: set[_Key] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def of(cls, session: Session) -> Survey:
        """Of nothing yet."""
        connection = cast("wire.PromptConnection", _Connection(session.connection))
        return cls(session.endpoint, connection, session.server, session.search_path, session)

    def one(self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None) -> _Row | None:
        """The first row as a dict, or None."""
        rows = self.all(query, parameters)
        return rows[0] if rows else None

    def all(self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None) -> list[_Row]:
        """All rows as dicts, which are the caller's own."""
        key = _key(query, parameters)
        if key not in self.answers:
            self._begin()
            self.answers[key] = self.behind.all(query, parameters)
        if not isinstance(query, str):
            self.composed.add(key)
        return [row.copy() for row in self.answers[key]]

    @contextmanager
    def reading(self, *, keeps_locks: bool = True) -> Iterator[None]:
        """Open the session's own `reading`, at the first question that is not remembered."""
        known = set(self.composed)
        try:
            with cast("_Connection", self.connection).enter_lazily(
                lambda: self.behind.reading(keeps_locks=keeps_locks)
            ):
                yield
        except SettingsChangedError:
            for key in self.composed - known:  # asked again, it must be refused again
                del self.answers[key]
            self.composed.intersection_update(known)
            raise

    def _begin(self) -> None:
        cast("_Connection", self.connection).begin()

    @property
    def guesses(self) -> dict[_Key, list[_Row]]:
        """What was asked of one table's rows, and not of the catalog."""
        return {key: self.answers[key] for key in self.composed}

    def foresee(
        self, query: LiteralString, types: Mapping[str, LiteralString], asked: Sequence[Mapping[str, Any]]
    ) -> list[list[_Row]]:
        """The answers to `query` for each of the sets of parameters, which will not be asked any more."""
        if not asked:
            return []
        arrays = {name: [_text(each[name]) for each in asked] for name in types}
        answers: list[list[_Row]] = [[] for _ in asked]
        self._begin()
        for row in self.behind.all(statements.of_all(query, types), arrays):
            del row["safecopy_line"]
            answers[row.pop("safecopy_place") - 1].append(row)
        for each, rows in zip(asked, answers, strict=True):
            self.answers[_key(query, each)] = rows
        return answers


def of_sources(session: Session, specs: Sequence[CopySpec], known: Mapping[_Key, list[_Row]] | None = None) -> Survey:
    """A survey of what these copies read. `known` are answers that will do: what a planner guessed a moment ago."""
    survey = Survey.of(session)
    survey.answers.update(known or {})
    with _at_best(survey):
        oids = _tables(survey, (spec.source_table for spec in specs if spec.source_table))
        survey.foresee(_WATERMARK["made_of"], {"oid": "oid"}, [{"oid": oid} for oid in oids])
    return survey


def of_targets(session: Session, specs: Sequence[CopySpec], source: Endpoint) -> Survey:
    """A survey of what these copies write, whose rows come from `source`."""
    survey = Survey.of(session)
    with _at_best(survey):
        asked = [{"oid": oid} for oid in _tables(survey, (spec.target_table for spec in specs))]
        for question in ("unique_indexes", "references", "may_lock", "foreign_partitions"):
            survey.foresee(_KEY[question], {"oid": "oid"}, asked)
        survey.foresee(_SURVEY["extent"], {"oid": "oid"}, asked)
        if survey.value(_WATERMARK["readable"]):
            survey.foresee(_DEFINE["last_shape"], {"source": "text", "target": "text"}, _shapes(specs, source))
    return survey


def _shapes(specs: Sequence[CopySpec], source: Endpoint) -> list[dict[str, str]]:
    """By which names receipts call them, as `CopyPlan` spells them."""
    return [
        {"source": f"{source} {spec.source_table}", "target": str(spec.target_table)}
        for spec in specs
        if spec.source_table and spec.source_table.schema and spec.target_table.schema
    ]


def extent(target: Survey, name: TableName) -> Extent:
    """How large the table is, as far as that matters for how it is published."""
    if any(refusal.of_name(target, name)):
        return "any"
    found = catalog.describe(target, name)
    row = target.one(_SURVEY["extent"], {"oid": found.oid}) if found else None
    if row is None or row["rows"] > SMALL_ROWS or row["bytes"] > SMALL_BYTES:
        return "any"
    return "tiny" if row["bytes"] <= TINY_BYTES and row["unnoticed"] else "small"


@contextmanager
def _at_best(survey: Survey) -> Iterator[None]:
    """What cannot be asked of all at once, of a name that cannot be spelled there say, is asked of each, and told then.

    The definitions of views lock the views' tables: they are released, or a batch would keep them until its end.
    """
    try:
        with survey.connection.transaction(force_rollback=True):
            yield
    except psycopg.DatabaseError as error:
        # Cancelled: an abort comes once, and would not end the next question. Locked: each question would wait as long.
        if survey.connection.closed or isinstance(
            error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable
        ):
            raise
        log.debug("%s: each table is asked for by itself: %s", survey.endpoint, error)


def _tables(session: Survey, names: Iterable[TableName]) -> list[int]:
    """Their names, themselves, their columns and types. The oids of those that are there."""
    wanted = sorted({(name.schema, name.name) for name in names if name.schema})
    asked = [{"schema": schema, "name": name} for schema, name in wanted]
    found = session.foresee(_CATALOG["relation"], {"schema": "text", "name": "text"}, asked)
    oids = [row["oid"] for rows in found for row in rows]
    columns = session.foresee(_CATALOG["columns"], {"oid": "oid"}, [{"oid": oid} for oid in oids])
    types = {tuple(row["type_oid"] for row in rows) for rows in columns}
    session.foresee(_CATALOG["types"], {"oids": "text"}, [{"oids": list(each)} for each in sorted(types)])
    return oids


def _key(query: LiteralString | Composed, parameters: Mapping[str, Any] | None) -> _Key:
    text = query if isinstance(query, str) else query.as_string(None)
    return text, repr(sorted((parameters or {}).items()))


def _text(value: Any) -> str:
    return "{" + ",".join(map(str, value)) + "}" if isinstance(value, list) else str(value)


class _Connection:
    """A connection whose transactions begin with the first question inside: what is remembered needs none."""

    def __init__(self, real: psycopg.Connection[Any]) -> None:
        self._real = real
        self._wanted: list[tuple[ExitStack, Callable[[], AbstractContextManager[Any]]]] = []
        self._begun = 0

    def __getattr__(self, name: str) -> Any:
        if name in {"cursor", "execute"}:
            self.begin()
        return getattr(self._real, name)

    def begin(self) -> None:
        """What was to begin begins now."""
        for stack, begin in self._wanted[self._begun :]:
            stack.enter_context(begin())
        self._begun = len(self._wanted)

    @contextmanager
    def transaction(self, *, force_rollback: bool = False) -> Iterator[None]:
        """As a connection's own."""
        with self.enter_lazily(lambda: self._real.transaction(force_rollback=force_rollback)):
            yield

    @contextmanager
    def enter_lazily(self, begin: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """Enter what `begin` returns at the first question in the block."""
        with ExitStack() as stack:
            self._wanted.append((stack, begin))
            try:
                yield
            finally:
                self._wanted.pop()
                self._begun = min(self._begun, len(self._wanted))

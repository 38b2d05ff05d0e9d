"""A survey: what drafting asks of each table, asked of all tables of a batch at once, and answered from memory after.

A question nobody foresaw is asked as ever; so the worst a survey can do is to be slow. Its answers are of one moment:
for drafting alone, since what counts at the publish is asked again under the table's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.model import MiB
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.statements import survey as statements

log = logging.getLogger(__name__)

_CATALOG = sql.load("catalog")
_SURVEY = sql.load("survey")
_KEY = sql.load("key")
_WATERMARK = sql.load("watermark")

SMALL_ROWS = 10_000
SMALL_TABLE_BYTES = MiB
"""A table of a batch that is no larger, on both sides, is not swapped unless that was asked for."""

_Row = dict[str, Any]


@dataclass(frozen=True)
class Survey(Session):
    """A session whose answers are remembered, many of them before they are asked for. For drafting alone."""

    answers: dict[tuple[str, str], list[_Row]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, session: Session) -> Survey:
        """Of nothing yet."""
        return cls(session.endpoint, session.connection, session.server, session.search_path)

    def one(self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None) -> _Row | None:
        """The first row as a dict, or None."""
        rows = self.all(query, parameters)
        return rows[0] if rows else None

    def all(self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None) -> list[_Row]:
        """All rows as dicts, which are the caller's own."""
        key = _key(query, parameters)
        if key not in self.answers:
            self.answers[key] = super().all(query, parameters)
        return [row.copy() for row in self.answers[key]]

    def foresee(
        self, query: LiteralString, types: Mapping[str, LiteralString], asked: Sequence[Mapping[str, Any]]
    ) -> list[list[_Row]]:
        """The answers to `query` for each of the sets of parameters, which will not be asked any more."""
        if not asked:
            return []
        arrays = {name: [_text(each[name]) for each in asked] for name in types}
        answers: list[list[_Row]] = [[] for _ in asked]
        for row in super().all(statements.of_all(query, types), arrays):
            del row["safecopy_line"]
            answers[row.pop("safecopy_place") - 1].append(row)
        for each, rows in zip(asked, answers, strict=True):
            self.answers[_key(query, each)] = rows
        return answers


def of_sources(session: Session, specs: Sequence[CopySpec]) -> Survey:
    """A survey of what these copies read."""
    survey = Survey.of(session)
    with _at_best(survey):
        oids = _tables(survey, (spec.source_table for spec in specs if spec.source_table))
        survey.foresee(_WATERMARK["made_of"], {"oid": "oid"}, [{"oid": oid} for oid in oids])
    return survey


def of_targets(session: Session, specs: Sequence[CopySpec]) -> Survey:
    """A survey of what these copies write."""
    survey = Survey.of(session)
    with _at_best(survey):
        asked = [{"oid": oid} for oid in _tables(survey, (spec.target_table for spec in specs))]
        for question in ("unique_indexes", "references", "may_lock", "foreign_partitions"):
            survey.foresee(_KEY[question], {"oid": "oid"}, asked)
        survey.foresee(_SURVEY["extent"], {"oid": "oid"}, asked)
    return survey


def is_small(target: Survey, oid: int) -> bool:
    """Whether the table of a target is so small that a swap would not pay."""
    row = target.one(_SURVEY["extent"], {"oid": oid})
    return row is not None and row["rows"] <= SMALL_ROWS and row["bytes"] <= SMALL_TABLE_BYTES


@contextmanager
def _at_best(survey: Survey) -> Iterator[None]:
    """What cannot be asked of all at once, of a name that cannot be spelled there say, is asked of each, and told then."""
    try:
        with survey.connection.transaction():
            yield
    except psycopg.DatabaseError as error:
        if survey.connection.closed:
            raise
        log.debug("%s: each table is asked for by itself: %s", survey.endpoint, error)


def _tables(session: Survey, names: Iterable[TableName]) -> list[int]:
    """Their names, themselves, their columns and types. The oids of those that are there."""
    wanted = sorted({(name.schema, name.name) for name in names if name.schema})
    spelled = sorted({part for name in wanted for part in name})
    session.foresee(_CATALOG["spelling"], {"name": "text"}, [{"name": part} for part in spelled])
    asked = [{"schema": schema, "name": name} for schema, name in wanted]
    found = session.foresee(_CATALOG["relation"], {"schema": "text", "name": "text"}, asked)
    oids = [row["oid"] for rows in found for row in rows]
    columns = session.foresee(_CATALOG["columns"], {"oid": "oid"}, [{"oid": oid} for oid in oids])
    types = {tuple(row["type_oid"] for row in rows) for rows in columns}
    session.foresee(_CATALOG["types"], {"oids": "text"}, [{"oids": list(each)} for each in sorted(types)])
    return oids


def _key(query: LiteralString | Composed, parameters: Mapping[str, Any] | None) -> tuple[str, str]:
    text = query if isinstance(query, str) else query.as_string(None)
    return text, repr(sorted((parameters or {}).items()))


def _text(value: Any) -> str:
    return "{" + ",".join(map(str, value)) + "}" if isinstance(value, list) else str(value)

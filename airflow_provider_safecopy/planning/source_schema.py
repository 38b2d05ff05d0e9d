"""Shape: what the source looked like when it was read. Kept in the receipt, so that a later run can tell what has changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.postgres.bulk import ask_all
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.session import Session

log = logging.getLogger(__name__)

_DEFINE = sql.load("define")
# There is no receipt yet, none for this role, or none that could have the source's name in it.
_UNKNOWN = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UntranslatableCharacter,
)


@dataclass(frozen=True)
class SchemaColumn:
    """The remembered facts of a column; see `catalog.Column`."""

    name: str
    type: str
    inner_shape: str
    not_null: bool


@dataclass(frozen=True)
class SourceSchema:
    """The columns of a source, in order: all of them, or those that were chosen."""

    columns: tuple[SchemaColumn, ...]

    @classmethod
    def from_relation(cls, relation: Relation, chosen: Mapping[str, str] | None = None) -> SourceSchema:
        """Return what is read of `relation`."""
        read = [column for column in relation.columns if chosen is None or column.name in chosen]
        return cls(tuple(SchemaColumn(each.name, each.type, each.inner_shape, each.not_null) for each in read))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SourceSchema:
        """Of what `as_dict` gave; what a later version may have added is ignored. Raises ValueError for anything else."""
        try:
            columns = data["columns"]
            listed = json.loads(columns) if isinstance(columns, str) else columns
            return cls(tuple(map(_parse_column, listed)))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"this is no shape: {error!r}") from error

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits, equal for equal shapes on whatever server."""
        return hashlib.sha256(self._to_ascii_json().encode()).hexdigest()[:32]

    def as_dict(self, *, encoding: str) -> dict[str, Any]:
        """Plain JSON values, with the fingerprint.

        A server of another `encoding` than UTF8 may lack letters of the source's: it gets the columns as a text, escaped.
        """
        columns = [asdict(column) for column in self.columns] if encoding == "UTF8" else self._to_ascii_json()
        return {"fingerprint": self.fingerprint, "columns": columns}

    def list_differences(self, earlier: SourceSchema) -> tuple[str, ...]:
        """Return how the source differs from the `earlier` schema, for people."""
        now = {column.name: column for column in self.columns}
        then = {column.name: column for column in earlier.columns}
        found = [f"column {spell(name)} {now[name].type} is new" for name in now if name not in then]
        found += [f"column {spell(name)} {then[name].type} is gone" for name in then if name not in now]
        found += [told for name in now if name in then for told in _list_changes(now[name], then[name])]
        if [name for name in now if name in then] != [name for name in then if name in now]:
            found.append("the columns are in another order")
        return tuple(found)

    def _to_ascii_json(self) -> str:
        return json.dumps([asdict(column) for column in self.columns], ensure_ascii=True, sort_keys=True)


@dataclass(frozen=True)
class EarlierSchema:
    """The shape of the last copy of this source into this target, whose number it was, and of which day (UTC)."""

    schema: SourceSchema
    token: int
    day: str

    def list_warnings(self, now: SourceSchema, target: TableName) -> Iterator[str]:
        """The warning that the source is not what it was, if it is not."""
        if differences := now.list_differences(self.schema):
            yield f"{target}: since token {self.token} of {self.day} the source has changed: {'; '.join(differences)}"


def read_last_schema(session: Session, *, source: str, target: TableName) -> EarlierSchema | None:
    """Return the schema in the last receipt of this target and source; None without one, or without one this role may read."""
    try:
        with session.connection.transaction():
            row = session.fetch_one(_DEFINE["last_shape"], {"source": source, "target": str(target)})
    except _UNKNOWN:
        return None
    return None if row is None else parse_schema(row, target)


def read_last_schemas(
    session: Session, pairs: Sequence[tuple[str, TableName]]
) -> dict[tuple[str, TableName], EarlierSchema | None]:
    """Return what `read_last_schema` does for each pair of source and target, by one question; nothing where `read_last_schema` gives None."""
    parameters = [{"source": source, "target": str(target)} for source, target in pairs]
    answers = ask_all(session, _DEFINE["last_shape"], {"source": "text", "target": "text"}, parameters)
    found = zip(pairs, answers, strict=True)
    return {(source, target): parse_schema(rows[0], target) if rows else None for (source, target), rows in found}


def parse_schema(row: Mapping[str, Any], target: TableName) -> EarlierSchema | None:
    """Return the shape in a receipt; None where it cannot be read."""
    try:
        return EarlierSchema(SourceSchema.from_dict(row["shape"]), row["token"], row["day"])
    except ValueError as error:  # it is for a warning alone
        log.info("%s: what its source looked like in token %s cannot be read: %s", target, row["token"], error)
        return None


def _parse_column(data: Mapping[str, Any]) -> SchemaColumn:
    column = SchemaColumn(**{name: data[name] for name in SchemaColumn.__dataclass_fields__})
    texts = (column.name, column.type, column.inner_shape)
    if not all(isinstance(text, str) for text in texts) or not isinstance(column.not_null, bool):
        raise TypeError(f"of another kind: {column!r:.200}")
    return column


def _list_changes(now: SchemaColumn, then: SchemaColumn) -> Iterator[str]:
    name = spell(now.name)
    if now.type != then.type:
        yield f"{name} was {then.type}, is {now.type}"
    elif now.inner_shape != then.inner_shape:
        yield f"{name}: the type {now.type} was ({then.inner_shape}), is ({now.inner_shape})"
    if now.not_null != then.not_null:
        yield f"{name} {'may not be' if now.not_null else 'may be'} NULL now"

"""The source schema: the columns that a copy read, kept in its receipt.

A later run compares its source with it, and warns of what has changed.
"""

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
# A warning is not worth a failed copy: without receipts, without the right to read them, or without letters for the
# source's name there is nothing to compare with.
_UNKNOWN = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UntranslatableCharacter,
)


@dataclass(frozen=True)
class SchemaColumn:
    """The facts of a column that a receipt keeps; see `catalog.Column`."""

    name: str
    type: str
    inner_shape: str
    not_null: bool


@dataclass(frozen=True)
class SourceSchema:
    """The columns that a copy reads, in the order of the source."""

    columns: tuple[SchemaColumn, ...]

    @classmethod
    def from_relation(cls, relation: Relation, chosen: Mapping[str, str] | None = None) -> SourceSchema:
        """Return the schema of `relation`: of all its columns, or of the `chosen` ones."""
        read = [column for column in relation.columns if chosen is None or column.name in chosen]
        return cls(tuple(SchemaColumn(each.name, each.type, each.inner_shape, each.not_null) for each in read))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SourceSchema:
        """Return the schema from a result of `as_dict`.

        Keys that a later version may have added are ignored. Raises ValueError for anything else.
        """
        try:
            columns = data["columns"]
            listed = json.loads(columns) if isinstance(columns, str) else columns
            return cls(tuple(map(_parse_column, listed)))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not the schema of a source: {error!r}") from error

    @property
    def fingerprint(self) -> str:
        """The fingerprint: 32 hexadecimal digits, equal for equal schemas on any server."""
        return hashlib.sha256(self._to_ascii_json().encode()).hexdigest()[:32]

    def as_dict(self, *, encoding: str) -> dict[str, Any]:
        """Return the columns as plain JSON values, with the fingerprint.

        A server with another `encoding` than UTF8 may lack letters of the source's: it gets the columns as one escaped
        text.
        """
        columns = [asdict(column) for column in self.columns] if encoding == "UTF8" else self._to_ascii_json()
        return {"fingerprint": self.fingerprint, "columns": columns}

    def list_differences(self, earlier: SourceSchema) -> tuple[str, ...]:
        """Return the differences from the `earlier` schema, as texts for people."""
        now = {column.name: column for column in self.columns}
        then = {column.name: column for column in earlier.columns}
        found = [f"column {spell(name)} {now[name].type} is new" for name in now if name not in then]
        found += [f"column {spell(name)} {then[name].type} is gone" for name in then if name not in now]
        found += [told for name in now if name in then for told in _list_changes(now[name], then[name])]
        # Of the columns in both alone: a column that is new or gone moves the ones behind it.
        if [name for name in now if name in then] != [name for name in then if name in now]:
            found.append("the columns are in another order")
        return tuple(found)

    def _to_ascii_json(self) -> str:
        # Escaped and sorted, so that the fingerprint depends on no encoding and on no order of fields.
        return json.dumps([asdict(column) for column in self.columns], ensure_ascii=True, sort_keys=True)


@dataclass(frozen=True)
class EarlierSchema:
    """The schema of the last copy from this source into this target.

    `token` is the token of that copy, `day` its day in UTC.
    """

    schema: SourceSchema
    token: int
    day: str

    def list_warnings(self, now: SourceSchema, target: TableName) -> Iterator[str]:
        """Yield a warning if the source has changed since that copy."""
        if differences := now.list_differences(self.schema):
            yield f"{target}: since token {self.token} of {self.day} the source has changed: {'; '.join(differences)}"


def read_last_schema(session: Session, *, source: str, target: TableName) -> EarlierSchema | None:
    """Return the schema in the last receipt of this target and source.

    None without a receipt, or without one that this role may read.
    """
    try:
        # In a transaction of its own, or a savepoint: an error must not end the transaction of the caller.
        with session.connection.transaction():
            row = session.fetch_one(_DEFINE["last_shape"], {"source": source, "target": str(target)})
    except _UNKNOWN:
        return None
    return None if row is None else parse_schema(row, target)


def read_last_schemas(
    session: Session, pairs: Sequence[tuple[str, TableName]]
) -> dict[tuple[str, TableName], EarlierSchema | None]:
    """Return the result of `read_last_schema` for each pair of source and target, in one query.

    This role must have the right to read receipts.
    """
    parameters = [{"source": source, "target": str(target)} for source, target in pairs]
    answers = ask_all(session, _DEFINE["last_shape"], {"source": "text", "target": "text"}, parameters)
    found = zip(pairs, answers, strict=True)
    return {(source, target): parse_schema(rows[0], target) if rows else None for (source, target), rows in found}


def parse_schema(row: Mapping[str, Any], target: TableName) -> EarlierSchema | None:
    """Return the schema in a receipt; None if it cannot be read."""
    try:
        return EarlierSchema(SourceSchema.from_dict(row["shape"]), row["token"], row["day"])
    except ValueError as error:
        # The schema is for a warning alone: a receipt that cannot be read must not hinder the copy.
        log.info(
            "%s: the schema of its source in token %s cannot be read, and is not compared: %s",
            target,
            row["token"],
            error,
        )
        return None


def _parse_column(data: Mapping[str, Any]) -> SchemaColumn:
    column = SchemaColumn(**{name: data[name] for name in SchemaColumn.__dataclass_fields__})
    # A person may have changed the receipt by hand: a wrong type must fail here, and not when it is compared.
    texts = (column.name, column.type, column.inner_shape)
    if not all(isinstance(text, str) for text in texts) or not isinstance(column.not_null, bool):
        raise TypeError(f"of another kind: {column!r:.200}")
    return column


def _list_changes(now: SchemaColumn, then: SchemaColumn) -> Iterator[str]:
    name = spell(now.name)
    if now.type != then.type:
        yield f"{name} was {then.type}, is {now.type}"
    # A new type has another inner shape anyway: one message is enough.
    elif now.inner_shape != then.inner_shape:
        yield f"{name}: the type {now.type} was ({then.inner_shape}), is ({now.inner_shape})"
    if now.not_null != then.not_null:
        yield f"{name} {'may not be' if now.not_null else 'may be'} NULL now"

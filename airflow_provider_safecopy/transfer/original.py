"""Original: what the source says of its columns and keys, as far as it means the same in another database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import catalog, statements
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.definition import Identity, NewColumn, NewKey
from airflow_provider_safecopy.transfer.name import spell
from airflow_provider_safecopy.transfer.refusal import NAME_BYTES
from airflow_provider_safecopy.transfer.session import Session, SettingsChangedError
from airflow_provider_safecopy.transfer.statements import define

_DEFINE = sql.load("define")
# Every table has these already, unseen.
_SYSTEM = frozenset({"tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"})


@dataclass(frozen=True)
class Original:
    """What the source has of a table beside names and types. Of a view or a query nothing is taken."""

    columns: Mapping[str, Mapping[str, Any]]
    keys: tuple[Mapping[str, Any], ...] = ()
    comment: str | None = None

    @classmethod
    def of(cls, source: Session, relation: Relation) -> Original:
        """Asked of the source."""
        if relation.kind not in ("r", "p"):
            return cls({})
        asked = {"oid": relation.oid}
        columns = {row["name"]: row for row in source.all(_DEFINE["columns"], asked)}
        keys, comment = source.all(_DEFINE["keys"], asked), source.value(_DEFINE["table_comment"], asked)
        return cls(columns, tuple(keys), comment)

    def added(self, target: Session, given: Column, name: str, told: list[str]) -> NewColumn:
        """A column for a table that has rows: it may be NULL, whatever it may be in the source."""
        found = self.columns.get(given.name, {})
        return NewColumn(name, given.type, found.get("comment"), collation=_collation(target, name, found, told))

    def column(self, target: Session, given: Column, name: str, told: list[str]) -> NewColumn:
        """A column for a new table. What cannot be like the source's is `told`."""
        found = self.columns.get(given.name)
        if found is None:
            return NewColumn(name, given.type)
        return NewColumn(
            name,
            given.type,
            found["comment"],
            not_null=found["not_null"],
            default=_default(target, name, found, told),
            identity=_identity(found),
            collation=_collation(target, name, found, told),
        )

    def made_keys(self, columns: Mapping[str, str], *, major: int, told: list[str]) -> tuple[NewKey, ...]:
        """Primary key and unique constraints on the copied `columns`, for a target of this major version."""
        made = []
        for found in self.keys:
            wanted = (*found["columns"], *found["included"])
            why = next((f"{spell(each)} is not copied" for each in wanted if each not in columns), None)
            if found["temporal"] or (found["nulls_not_distinct"] and major < 15):
                why = "not every target knows its kind"
            if why is None:
                made.append(_key(found, columns))
            else:
                kind = "primary key" if found["is_primary"] else "unique constraint"
                told.append(f"{kind} {spell(found['name'])} is not made: {why}")
        return tuple(made)


def there(target: Session, given: Column, name: str, label: str) -> Column | Refusal:
    """The column as it would be in the target, or why it cannot be there."""
    length, place, column = catalog.bytes_of(target, name), target.server.encoding, spell(name)
    if length is None:
        message = f"column {column} cannot be spelled in {place}, the encoding of {target.endpoint}"
        return Refusal("name_not_in_encoding", message, label, column, "give it another name with columns")
    if length > NAME_BYTES:
        message = f"column {column} is {length} bytes long in {place}; PostgreSQL would silently cut it at {NAME_BYTES}"
        return Refusal("name_too_long", message, label, column, "give it a shorter name with columns")
    if name in _SYSTEM:
        message = f"column {column} cannot be made: every table has a system column of this name"
        return Refusal("column_unaddable", message, label, column, "give it another name with columns")
    found = _type(target, given.type)
    if found is None:
        message = f"column {column}: there is no type {given.type} in {target.endpoint}"
        return Refusal("type_missing", message, label, column, "make the type there, or cast in source_sql")
    if found["pseudo"]:
        message = f"column {column}: no table can have a column of type {given.type}"
        return Refusal("column_unaddable", message, label, column, "cast it in source_sql")
    return Column(name, given.type, **catalog.type_facts(target, [found["oid"]])[found["oid"]])


def obeys_rules(target: Session, type_: str) -> bool:
    """Whether it is a domain whose NOT NULL, default or CHECK rows that are there already would have to obey."""
    found = _type(target, type_)
    return found is not None and bool(found["obeyed"])


def _type(target: Session, type_: str) -> dict[str, Any] | None:
    try:
        with target.connection.transaction():
            return target.one(_DEFINE["type_there"], {"type": type_})
    except (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire):
        return None


def _default(target: Session, name: str, found: Mapping[str, Any], told: list[str]) -> str | None:
    expression: str | None = found["expression"]
    if expression is None:
        return None
    if found["generated"]:
        told.append(
            f"column {spell(name)} is an ordinary one, with the source's values, and not computed: {expression}"
        )
        return None
    if found["plain"] and _understood(target, expression):
        return expression
    told.append(f"column {spell(name)} is made without its default, which may mean something else here: {expression}")
    return None


def _understood(target: Session, expression: str) -> bool:
    try:
        with target.reading():
            target.one(statements.explain(define.some_value(expression)))
    except SettingsChangedError:
        return False
    except psycopg.Error as error:
        if (error.sqlstate or "08")[:2] in {"08", "57"}:
            raise
        return False
    return True


def _collation(target: Session, name: str, found: Mapping[str, Any], told: list[str]) -> str | None:
    collation: str | None = found.get("collation")
    if collation is None:
        return None
    if found["collation_built_in"] and target.value(_DEFINE["collation_there"], {"name": collation}):
        return collation
    told.append(f"column {spell(name)} is made with the default collation, not {spell(collation)}")
    return None


def _identity(found: Mapping[str, Any]) -> Identity | None:
    if found["identity"] is None:
        return None
    words = ("seqstart", "seqincrement", "seqmin", "seqmax", "seqcache", "seqcycle")
    return Identity(found["identity"], *(found[word] for word in words))


def _key(found: Mapping[str, Any], columns: Mapping[str, str]) -> NewKey:
    return NewKey(
        found["name"],
        found["is_primary"],
        tuple(columns[each] for each in found["columns"]),
        tuple(columns[each] for each in found["included"]),
        nulls_not_distinct=found["nulls_not_distinct"],
        deferrable=found["deferrable"],
        deferred=found["deferred"],
        comment=found["comment"],
    )

"""Relations as the catalog shows them: columns, rights, and what the server's encoding can spell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.bulk import ask_all
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session

_CATALOG = sql.load("catalog")

KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
    "i": "index",
    "I": "partitioned index",
    "c": "composite type",
    "t": "toast table",
    "q": "query",
}


@dataclass(frozen=True)
class Column:
    """One column. `type` is spelled with its typmod; `inner_shape` tells enums, domains and composites apart.

    `structure` says of what the type is made at every depth, without schemas, and `origins` whence its parts come that are
    made of nothing else; `type_schema` is the type's own schema. All three are empty for what is built in.

    `may_use`, `may_select`, `may_insert`, `may_update`: this role's rights on the type and on the column. `always`: an
    identity that no UPDATE may set.
    """

    name: str
    type: str
    inner_shape: str = ""
    structure: str = ""
    origins: str = ""
    type_schema: str = ""
    binary_safe: bool = False
    is_money: bool = False
    not_null: bool = False
    has_default: bool = False
    identity: bool = False
    always: bool = False
    generated: bool = False
    may_use: bool = True
    may_select: bool = True
    may_insert: bool = True
    may_update: bool = True

    @property
    def bare_type(self) -> str:
        """The type as it is spelled where its schema is in the search_path."""
        return self.type.removeprefix(f"{self.type_schema}.") if self.type_schema else self.type

    def has_type_of(self, other: Column) -> bool:
        """Return whether both types are the same: by definition, or of one extension, in whatever schemas they are."""
        if self.structure != other.structure:
            return False
        return self.type == other.type or (self.bare_type, self.origins) == (other.bare_type, other.origins)


@dataclass(frozen=True)
class Relation:
    """A table, a view, a foreign table, … or (`kind` q, `name` None) the result of a query.

    `filtered`: row security would hide rows from this role. `deletes_spread_by`: foreign keys whose ON
    DELETE action would change other tables. `published_without_identity`: DELETE is refused by a
    publication that has no key to name the row by; `update_without_identity`: UPDATE is. `meddlers`: row triggers
    that fire before INSERT or UPDATE, and may change row values; `triggers`: all that are enabled.
    `updates_refused_by`, `deletes_refused_by`: publications whose row filter or column list does not fit the replica
    identity. `may_select_whole`: SELECT on the table, and not on single columns only. `temporal_keys`: keys on periods.
    `calls_functions`: its indexes, statistics, checks or defaults call functions of a user's. `schemas`: where things are
    found, besides pg_catalog, that those functions name without a schema; see `own_path`.
    `kin`: its partitions and parents.
    """

    name: TableName | None
    kind: str
    columns: tuple[Column, ...]
    oid: int = 0
    persistence: str = "p"
    filtered: bool = False
    owner: str = ""
    may_enter: bool = True
    may_select: bool = True
    may_select_whole: bool = True
    may_insert: bool = False
    may_update: bool = False
    may_delete: bool = False
    may_truncate: bool = False
    has_children: bool = False
    published_without_identity: bool = False
    update_without_identity: bool = False
    updates_refused_by: tuple[str, ...] = ()
    deletes_refused_by: tuple[str, ...] = ()
    temporal_keys: tuple[str, ...] = ()
    calls_functions: bool = False
    schemas: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    meddlers: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    kin: tuple[TableName, ...] = ()
    referenced_by: tuple[str, ...] = ()
    deletes_spread_by: tuple[str, ...] = ()
    estimated_rows: int = 0

    @property
    def label(self) -> str:
        """The name of the relation for people."""
        return "the query" if self.name is None else str(self.name)

    def column(self, name: str) -> Column | None:
        """Return the column of exactly this name, or None."""
        return next((column for column in self.columns if column.name == name), None)


def describe(session: Session, name: TableName) -> Relation | None:
    """Return the relation of exactly this name, or None.

    A name without a schema is looked up along search_path.
    """
    schema = name.schema or _home(session, name)
    if schema is None:
        return None
    found = session.fetch_one(_CATALOG["relation"], {"schema": schema, "name": name.name})
    if found is None:
        return None
    columns = session.fetch_all(_CATALOG["columns"], {"oid": found["oid"]})
    facts = type_facts(session, [row["type_oid"] for row in columns])
    return _relation_of(TableName(schema, name.name), found, columns, facts)


def describe_all(session: Session, names: Iterable[TableName]) -> dict[TableName, Relation | None]:
    """Return the result of `describe` for each name.

    Several names with a schema are asked for in three queries.
    """
    wanted = sorted(set(names), key=lambda name: (name.schema or "", name.name))
    full = [name for name in wanted if name.schema is not None]
    together = _describe_together(session, full) if len(full) > 1 else {}
    return {name: together[name] if name in together else describe(session, name) for name in wanted}


def _describe_together(session: Session, names: Sequence[TableName]) -> dict[TableName, Relation | None]:
    asked = [{"schema": name.schema, "name": name.name} for name in names]
    answers = ask_all(session, _CATALOG["relation"], {"schema": "text", "name": "text"}, asked)
    found = {name: rows[0] for name, rows in zip(names, answers, strict=True) if rows}
    columns = ask_all(session, _CATALOG["columns"], {"oid": "oid"}, [{"oid": row["oid"]} for row in found.values()])
    facts = type_facts(session, sorted({row["type_oid"] for rows in columns for row in rows})) if columns else {}
    there = {
        name: _relation_of(name, row, rows, facts) for (name, row), rows in zip(found.items(), columns, strict=True)
    }
    return {name: there.get(name) for name in names}


def _relation_of(
    name: TableName, row: dict[str, Any], columns: list[dict[str, Any]], facts: Mapping[int, Mapping[str, Any]]
) -> Relation:
    """Return the relation that these rows of the catalog describe."""
    lists = (
        *("rules", "meddlers", "triggers", "referenced_by", "deletes_spread_by"),
        *("updates_refused_by", "deletes_refused_by", "temporal_keys"),
    )
    own: dict[str, Any] = {
        key: tuple(value) if key in lists else value for key, value in row.items() if not key.startswith("kin_")
    }
    kin = tuple(map(TableName, row["kin_schemas"], row["kin_names"]))
    return Relation(name=name, columns=tuple(_column_of(each, facts) for each in columns), kin=kin, **own)


def _column_of(row: dict[str, Any], facts: Mapping[int, Mapping[str, Any]]) -> Column:
    own = {key: value for key, value in row.items() if key not in ("number", "type_oid")}
    return Column(**own, **facts[row["type_oid"]])


def describe_query(session: Session, source_sql: str, schemas: tuple[str, ...] = ()) -> Relation:
    """Return the columns of a query's result, as a relation; `schemas` are searched for names.

    Raises psycopg.Error if the server cannot understand the query.
    """
    with session.run_user_sql(schemas), session.connection.cursor(binary=True) as cursor:
        # It must be a complete query, and not only fit between our parentheses.
        session.fetch_one(statements.explain(statements.verbatim(source_sql)))
        result = cursor.execute(statements.no_rows(source_sql)).pgresult
        assert result is not None  # noqa: S101 -- execute returned
        names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
        oids = [result.ftype(i) for i in range(result.nfields)]
        typmods = [result.fmod(i) for i in range(result.nfields)]
    types = [row["type"] for row in session.fetch_all(_CATALOG["type_names"], {"oids": oids, "typmods": typmods})]
    inner = type_facts(session, oids)
    columns = tuple(Column(name, type_, **inner[oid]) for name, type_, oid in zip(names, types, oids, strict=True))
    return Relation(name=None, kind="q", columns=columns, schemas=schemas)


def read_names(session: Session) -> tuple[TableName, ...]:
    """Read the names of all tables that this role may see."""
    return tuple(TableName(row["schema"], row["name"]) for row in session.fetch_all(_CATALOG["tables"], {}))


def _home(session: Session, name: TableName) -> str | None:
    # The path is a parameter: the session itself runs with search_path = pg_catalog.
    home: str | None = session.fetch_value(_CATALOG["home"], {"path": list(session.search_path), "name": name.name})
    return home


def type_facts(session: Session, oids: list[int]) -> dict[int, dict[str, Any]]:
    """Return the facts of a `Column` about its type, by the type's OID."""
    rows = session.fetch_all(_CATALOG["types"], {"oids": oids})
    return {row.pop("oid"): row for row in rows}


def check_spelling(session: Session, *texts: str) -> tuple[bool, ...]:
    """Return for each text whether the server can spell it."""
    return tuple(count_bytes(session, text) is not None for text in texts)


def count_bytes(session: Session, identifier: str) -> int | None:
    """Return the length of the identifier in bytes of the server's encoding; None if it cannot be spelled."""
    if session.server.encoding == "UTF8" or identifier.isascii():
        return len(identifier.encode())
    try:
        with session.connection.transaction():
            # The server counts: a codec of Python's may disagree with the server's on any encoding but UTF-8.
            length: int = session.fetch_value(_CATALOG["spelling"], {"name": identifier})
    except (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire):
        return None
    return length

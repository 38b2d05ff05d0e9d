"""Creation: a target table that is missing, made like the source's.

Made are columns with their types, NOT NULL, identity, built-in collations and such defaults as mean the same anywhere;
primary key and unique constraints; comments. Not made: other indexes, checks, foreign keys, triggers, policies, grants
(the schema's default privileges apply), partitions, storage options. Generated columns become ordinary ones: the values
are the source's, and not what this server's collations would make of them. Of a view or a query: columns and types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import catalog, mismatch
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.definition import Definition, NewKey
from airflow_provider_safecopy.transfer.match import Match
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.original import Original, there
from airflow_provider_safecopy.transfer.refusal import NAME_BYTES, lacks
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.statements import define

_DEFINE = sql.load("define")


def match(spec: CopySpec, source: Session, target: Session, given: Relation, refusals: list[Refusal]) -> Match:
    """The table that is to be made, with every column of the source or those that were chosen."""
    name = _name(spec, target, refusals)
    chosen = {each.name: each.name for each in given.columns} if spec.columns is None else dict(spec.columns)
    refusals += [*mismatch.of_names(given, chosen), *mismatch.of_source(given, chosen)]
    pairs = tuple(_pairs(target, given, chosen, str(name), refusals))
    if spec.missing_column is not None:
        message = (
            f"column {spell(spec.missing_column)}, in which missing rows are marked, is not the source's to define"
        )
        hint = "make the table yourself, or let a copy without missing=mark make it"
        refusals.append(Refusal("column_missing", message, str(name), spell(spec.missing_column), hint))
    original, told = Original.of(source, given), list[str]()
    columns = tuple(original.column(target, one, other.name, told) for one, other in pairs)
    copied = {one.name: other.name for one, other in pairs}
    keys = original.made_keys(copied, major=target.server.major, told=told)
    keys = tuple(_named(target, name, [*keys, *_demanded(spec, keys, copied, refusals)], told))
    taken = tuple(
        replace(other, identity=column.identity is not None) for (_, other), column in zip(pairs, columns, strict=True)
    )
    relation = Relation(name, "r", taken, owner=target.server.role, may_insert=True, may_delete=True, may_truncate=True)
    return Match(
        tuple((one, other) for (one, _), other in zip(pairs, taken, strict=True)),
        relation,
        Definition(columns, keys, original.comment),
        tuple(f"{name}: {each}" for each in told),
    )


def place(target: Session, asked: TableName) -> TableName:
    """Where a table of this name would be made: as everywhere in SQL, in the first schema of the role's search_path."""
    return TableName(asked.schema or next(iter(target.search_path), None), asked.name)


def _name(spec: CopySpec, target: Session, refusals: list[Refusal]) -> TableName:
    """Its full name, where there is the schema and the right to make it there."""
    name, role = place(target, spec.target_table), target.server.role
    schema = name.schema
    found = schema and target.one(_DEFINE["schema_there"], {"schema": schema, "name": name.name})
    if not found:
        message = (
            f"{name}: there is no schema {spell(schema)} in {target.endpoint}" if schema else f"{name}: no schema given"
        )
        hint = f"make it: {define.create_schema(schema).as_string(None)}" if schema else "give one"
        refusals.append(Refusal("no_such_schema", message, str(name), hint=hint))
        return name
    if found["taken"]:
        message = f"{name} is a type: no table can be made beside it"
        refusals.append(Refusal("not_a_target", message, str(name), hint="give the table another name"))
    for right, granted in (("USAGE", found["may_enter"]), ("CREATE", found["may_create"])):
        if not granted:
            refusals.append(lacks(str(name), role, f"{right} on schema {spell(schema or '')}"))
    return name


def _pairs(
    target: Session, given: Relation, chosen: Mapping[str, str], label: str, refusals: list[Refusal]
) -> Iterator[tuple[Column, Column]]:
    for name, wanted in chosen.items():
        column = given.column(name)
        if column is None:
            continue  # refused already
        made = there(target, column, wanted, label)
        if isinstance(made, Refusal):
            refusals.append(made)
        else:
            yield column, made


def _demanded(
    spec: CopySpec, keys: tuple[NewKey, ...], copied: Mapping[str, str], refusals: list[Refusal]
) -> Iterator[NewKey]:
    """The key by which later runs will know a row, where the source has none like it."""
    if spec.write_mode not in ("upsert", "incremental"):
        return
    wanted, table = spec.key_columns, str(spec.target_table)
    has_primary = any(key.primary for key in keys)
    if wanted is None:
        if not has_primary:
            message = f"{table}: the source has no primary key that could be copied, by which rows are known again"
            refusals.append(Refusal("no_key", message, table, hint="give key_columns"))
        return
    if lost := [column for column in wanted if column not in copied.values()]:
        message = f"column {spell(lost[0])} of key_columns is not copied"
        refusals.append(Refusal("column_missing", message, table, spell(lost[0]), "check the spelling in key_columns"))
    elif not any(set(key.columns) == set(wanted) for key in keys):
        yield NewKey(None, not has_primary, wanted)


def _named(target: Session, table: TableName, keys: list[NewKey], told: list[str]) -> Iterator[NewKey]:
    """With their own names where those are free and fit; else the server finds one."""
    for key in keys:
        if key.name is None or _is_free(target, table, key.name):
            yield key
        else:
            told.append(f"{key.kind} {spell(key.name)} gets another name: this one is taken, or does not fit")
            yield replace(key, name=None)


def _is_free(target: Session, table: TableName, name: str) -> bool:
    length = catalog.bytes_of(target, name)
    if name == table.name or length is None or length > NAME_BYTES:
        return False
    return not target.value(_DEFINE["name_there"], {"schema": table.schema, "name": name})

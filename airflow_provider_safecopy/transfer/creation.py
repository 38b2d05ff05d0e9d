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
from airflow_provider_safecopy.transfer import mismatch
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.definition import Definition, NewKey
from airflow_provider_safecopy.transfer.finding import Finding, join, refuse
from airflow_provider_safecopy.transfer.match import ColumnMatch, ColumnPair
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.original import Blueprint, SourceDefinition, plan_target_column, read_blueprint
from airflow_provider_safecopy.transfer.refusal import NAME_BYTES, refuse_privilege
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.spelling import count_bytes
from airflow_provider_safecopy.transfer.statements import define
from airflow_provider_safecopy.transfer.vocabulary import Vocabulary

_DEFINE = sql.load("define")


def match(
    spec: CopySpec, source: Session, target: Session, given: Relation, known: Blueprint | None
) -> Finding[ColumnMatch]:
    """Return the table to be made, with every column of the source or those that were chosen.

    `known` is what a batch has read of the source's definition; without, it is asked for.
    """
    placed = _name(spec, target)
    name, label = placed.value, str(placed.value)
    chosen = {each.name: each.name for each in given.columns} if spec.columns is None else dict(spec.columns)
    named = refuse([*mismatch.check_names(given, chosen), *mismatch.check_source(given, chosen)])
    blueprint = known or read_blueprint(source, target, given, chosen)
    paired = _pairs(target, given, chosen, label, blueprint.vocabulary)
    columns = [
        blueprint.source_definition.build_column(blueprint.vocabulary, one, other.name) for one, other in paired.value
    ]
    keys = _keys(spec, target, name, blueprint.source_definition, {one.name: other.name for one, other in paired.value})
    said = join(placed, named, paired, refuse(_of_missing_column(spec, label)), *columns, keys)
    definition = Definition(tuple(each.value for each in columns), keys.value, blueprint.source_definition.comment)
    pairs = tuple(
        (one, replace(other, identity=column.identity is not None))
        for (one, other), column in zip(paired.value, definition.columns, strict=True)
    )
    taken, owner = tuple(other for _, other in pairs), target.server.role
    relation = Relation(name, "r", taken, owner=owner, may_insert=True, may_delete=True, may_truncate=True)
    warnings = tuple(f"{name}: {each}" for each in said.warnings)
    return Finding(ColumnMatch(pairs, relation, definition), said.refusals, warnings=warnings)


def place(target: Session, asked: TableName) -> TableName:
    """Where a table of this name would be made: as everywhere in SQL, in the first schema of the role's search_path."""
    return TableName(asked.schema or next(iter(target.search_path), None), asked.name)


def _name(spec: CopySpec, target: Session) -> Finding[TableName]:
    """Return its full name, where there is the schema and the right to make it there."""
    name, role = place(target, spec.target_table), target.server.role
    schema = name.schema
    found = schema and target.fetch_one(_DEFINE["schema_there"], {"schema": schema, "name": name.name})
    if not found:
        message = (
            f"{name}: there is no schema {spell(schema)} in {target.endpoint}" if schema else f"{name}: no schema given"
        )
        hint = f"make it: {define.create_schema(schema).as_string(None)}" if schema else "give one"
        return Finding(name, (Refusal("no_such_schema", message, str(name), hint=hint),))
    refusals = []
    if found["taken"]:
        message = f"{name} is a type: no table can be made beside it"
        refusals.append(Refusal("not_a_target", message, str(name), hint="give the table another name"))
    for right, granted in (("USAGE", found["may_enter"]), ("CREATE", found["may_create"])):
        if not granted:
            refusals.append(refuse_privilege(str(name), role, f"{right} on schema {spell(schema or '')}"))
    return Finding(name, tuple(refusals))


def _pairs(
    target: Session, given: Relation, chosen: Mapping[str, str], label: str, vocabulary: Vocabulary
) -> Finding[tuple[ColumnPair, ...]]:
    wanted = [(column, name) for name, column in ((name, given.column(one)) for one, name in chosen.items()) if column]
    made = [(column, plan_target_column(target, vocabulary, column, name, label)) for column, name in wanted]
    return Finding(
        tuple((column, found) for column, found in made if isinstance(found, Column)),
        tuple(found for _, found in made if isinstance(found, Refusal)),
    )


def _of_missing_column(spec: CopySpec, label: str) -> Iterator[Refusal]:
    if spec.missing_column is not None:
        column = spell(spec.missing_column)
        message = f"column {column}, in which missing rows are marked, is not the source's to define"
        hint = "make the table yourself, or let a copy without missing=mark make it"
        yield Refusal("column_missing", message, label, column, hint)


def _keys(
    spec: CopySpec, target: Session, table: TableName, original: SourceDefinition, copied: Mapping[str, str]
) -> Finding[tuple[NewKey, ...]]:
    """Return the source's keys on the `copied` columns, and the one that later runs need."""
    made = original.choose_keys(copied, major=target.server.major)
    demanded = _build_demanded_keys(spec, made.value, copied)
    named = [_name_key(target, table, key) for key in (*made.value, *demanded.value)]
    said = join(made, demanded, *named)
    return Finding(tuple(each.value for each in named), said.refusals, warnings=said.warnings)


def _build_demanded_keys(
    spec: CopySpec, keys: tuple[NewKey, ...], copied: Mapping[str, str]
) -> Finding[tuple[NewKey, ...]]:
    """Return the key by which later runs will know a row, where the source has none like it."""
    if spec.write_mode not in ("upsert", "incremental"):
        return Finding(())
    wanted, table = spec.key_columns, str(spec.target_table)
    has_primary = any(key.primary for key in keys)
    if wanted is None:
        message = f"{table}: the source has no primary key that could be copied, by which rows are known again"
        return Finding((), () if has_primary else (Refusal("no_key", message, table, hint="give key_columns"),))
    if lost := [column for column in wanted if column not in copied.values()]:
        message = f"column {spell(lost[0])} of key_columns is not copied"
        hint = "check the spelling in key_columns"
        return Finding((), (Refusal("column_missing", message, table, spell(lost[0]), hint),))
    if any(set(key.columns) == set(wanted) for key in keys):
        return Finding(())
    return Finding((NewKey(None, not has_primary, wanted),))


def _name_key(target: Session, table: TableName, key: NewKey) -> Finding[NewKey]:
    """Return the key with its own name where that is free and fits; else the server finds one."""
    if key.name is None or _is_free(target, table, key.name):
        return Finding(key)
    other = f"{key.kind} {spell(key.name)} gets another name: this one is taken, or does not fit"
    return Finding(replace(key, name=None), warnings=(other,))


def _is_free(target: Session, table: TableName, name: str) -> bool:
    length = count_bytes(target, name)
    if name == table.name or length is None or length > NAME_BYTES:
        return False
    return not target.fetch_value(_DEFINE["name_there"], {"schema": table.schema, "name": name})

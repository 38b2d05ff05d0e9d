"""A missing target table, made from the source's definition as far as it means the same elsewhere.

Made are columns with their types, NOT NULL, identity, built-in collations and such defaults as mean the same anywhere;
primary key and unique constraints; comments. Not made: other indexes, checks, foreign keys, triggers, policies, grants
(the schema's default privileges apply), partitions, storage options. Generated columns become ordinary ones: the values
are the source's, and not what this server's collations would make of them. For a view or a query only columns and types
are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import column_match, table_statements
from airflow_provider_safecopy.planning.catalog import Column, Relation, count_bytes
from airflow_provider_safecopy.planning.column_match import ColumnMatch, ColumnPair
from airflow_provider_safecopy.planning.finding import Finding, join, refuse
from airflow_provider_safecopy.planning.preflight import NAME_BYTES, refuse_privilege
from airflow_provider_safecopy.planning.table_definition import Definition, Identity, NewColumn, NewKey
from airflow_provider_safecopy.planning.vocabulary import Vocabulary, read_vocabulary
from airflow_provider_safecopy.postgres.bulk import ask_all
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec

_DEFINE = sql.load("define")
_QUESTIONS = ("columns", "keys", "table_comment")
# PostgreSQL refuses these names: every table has its system columns.
_SYSTEM_COLUMNS = frozenset({"tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"})


@dataclass(frozen=True)
class SourceDefinition:
    """The source's definition of a table, beside column names and types.

    It is empty for a view or a query.
    """

    columns: Mapping[str, Mapping[str, Any]]
    keys: tuple[Mapping[str, Any], ...] = ()
    comment: str | None = None

    @classmethod
    def read(cls, source: Session, relation: Relation) -> SourceDefinition:
        """Read the definition of `relation` from the source."""
        if relation.kind not in ("r", "p"):
            return cls({})
        asked = {"oid": relation.oid}
        columns, keys = source.fetch_all(_DEFINE["columns"], asked), source.fetch_all(_DEFINE["keys"], asked)
        return cls.from_rows(columns, keys, source.fetch_value(_DEFINE["table_comment"], asked))

    @classmethod
    def from_rows(
        cls, columns: Iterable[Mapping[str, Any]], keys: Iterable[Mapping[str, Any]], comment: str | None
    ) -> SourceDefinition:
        """Return the definition that the rows of these questions describe."""
        return cls({row["name"]: row for row in columns}, tuple(keys), comment)

    def list_defaults(self, names: Iterable[str]) -> Iterable[str]:
        """Return the defaults of the columns `names` that another server might understand."""
        found = (self.columns[name] for name in names if name in self.columns)
        return (row["expression"] for row in found if row["expression"] and row["plain"] and not row["generated"])

    def list_collations(self, names: Iterable[str]) -> Iterable[str]:
        """Return the collations of the columns `names` that every server of this kind may have."""
        found = (self.columns[name] for name in names if name in self.columns)
        return (row["collation"] for row in found if row["collation"] and row["collation_built_in"])

    def build_added_column(self, vocabulary: Vocabulary, source_column: Column, name: str) -> Finding[NewColumn]:
        """Return a column for a table that has rows.

        It may be NULL, whatever it may be in the source, and has no default.
        """
        found = self.columns.get(source_column.name, {})
        collation = _choose_collation(vocabulary, name, found)
        # No NOT NULL: the rows that are there already have no value in this column.
        new = NewColumn(name, vocabulary.spell(source_column.type), found.get("comment"), collation=collation.value)
        return Finding(new, warnings=collation.warnings)

    def build_column(self, vocabulary: Vocabulary, source_column: Column, name: str) -> Finding[NewColumn]:
        """Return a column for a new table, with warnings of what differs from the source's."""
        found = self.columns.get(source_column.name)
        if found is None:
            return Finding(NewColumn(name, vocabulary.spell(source_column.type)))
        default, collation = _choose_default(vocabulary, name, found), _choose_collation(vocabulary, name, found)
        new = NewColumn(
            name,
            vocabulary.spell(source_column.type),
            found["comment"],
            not_null=found["not_null"],
            default=default.value,
            identity=_build_identity(found),
            collation=collation.value,
        )
        return Finding(new, warnings=default.warnings + collation.warnings)

    def choose_keys(self, columns: Mapping[str, str], *, major: int) -> Finding[tuple[NewKey, ...]]:
        """Return the primary key and unique constraints whose columns are all copied.

        `columns` are the copied columns, source to target; `major` is the target's major version.
        """
        made, lost = [], []
        for found in self.keys:
            wanted = (*found["columns"], *found["included"])
            why = next((f"{spell(each)} is not copied" for each in wanted if each not in columns), None)
            # NULLS NOT DISTINCT is known from version 15 on, WITHOUT OVERLAPS from 18 on.
            if found["temporal"] or (found["nulls_not_distinct"] and major < 15):
                why = "not every target knows its kind"
            if why is None:
                made.append(_build_key(found, columns))
            else:
                kind = "primary key" if found["is_primary"] else "unique constraint"
                lost.append(f"{kind} {spell(found['name'])} is not made: {why}")
        return Finding(tuple(made), warnings=tuple(lost))


def read_source_definitions(source: Session, relations: Sequence[Relation]) -> dict[int, SourceDefinition]:
    """Return the definition of each relation by its OID, in three queries.

    Each is what `SourceDefinition.read` returns.
    """
    tables = [each for each in relations if each.kind in ("r", "p")]
    asked = [{"oid": each.oid} for each in tables]
    answers = [ask_all(source, _DEFINE[question], {"oid": "oid"}, asked) for question in _QUESTIONS]
    found = {each.oid: SourceDefinition({}) for each in relations}
    for each, columns, keys, comment in zip(tables, *answers, strict=True):
        found[each.oid] = SourceDefinition.from_rows(columns, keys, next(iter(comment[0].values())))
    return found


@dataclass(frozen=True)
class Blueprint:
    """The facts that new columns are made from: the source's definition, and the target's vocabulary."""

    source_definition: SourceDefinition
    vocabulary: Vocabulary


def read_blueprint(
    source: Session, target: Session, relation: Relation, names: Iterable[str], *, defaults: bool = True
) -> Blueprint:
    """Read what new columns like `names` of `relation` depend on, from both servers.

    Without `defaults` the target is not asked whether it understands the defaults.
    """
    chosen = set(names)
    original = SourceDefinition.read(source, relation)
    columns = [each for each in relation.columns if each.name in chosen]
    expressions = original.list_defaults(chosen) if defaults else ()
    return Blueprint(original, read_vocabulary(target, columns, expressions, original.list_collations(chosen)))


def plan_target_column(
    target: Session, vocabulary: Vocabulary, source_column: Column, name: str, label: str
) -> Column | Refusal:
    """Return the column as it would be in the target, or why it cannot be there."""
    length, place, column = count_bytes(target, name), target.server.encoding, spell(name)
    if length is None:
        message = f"column {column} cannot be spelled in {place}, the encoding of {target.endpoint}"
        return Refusal("name_not_in_encoding", message, label, column, "give it another name with columns")
    if length > NAME_BYTES:
        message = f"column {column} is {length} bytes long in {place}; PostgreSQL would silently cut it at {NAME_BYTES}"
        return Refusal("name_too_long", message, label, column, "give it a shorter name with columns")
    # Refused here with its reason: the server would fail in the middle of the copy.
    if name in _SYSTEM_COLUMNS:
        message = f"column {column} cannot be made: every table has a system column of this name"
        return Refusal("column_unaddable", message, label, column, "give it another name with columns")
    found = vocabulary.types.get(source_column.type)
    if found is None:
        message = f"column {column}: there is no type {source_column.type} in {target.endpoint}"
        return Refusal("type_missing", message, label, column, "make the type there, or cast in source_sql")
    if found.is_pseudo:
        message = f"column {column}: no table can have a column of type {source_column.type}"
        return Refusal("column_unaddable", message, label, column, "cast it in source_sql")
    return Column(name, found.spelled, **found.facts)


def _choose_default(vocabulary: Vocabulary, name: str, facts: Mapping[str, Any]) -> Finding[str | None]:
    expression: str | None = facts["expression"]
    if expression is None:
        return Finding(None)
    # The source's values are kept: this server might compute others, with other collations or functions.
    if facts["generated"]:
        ordinary = f"column {spell(name)} is an ordinary one, with the source's values, and not computed: {expression}"
        return Finding(None, warnings=(ordinary,))
    if facts["plain"] and expression in vocabulary.defaults:
        return Finding(expression)
    without = f"column {spell(name)} is made without its default, which may mean something else here: {expression}"
    return Finding(None, warnings=(without,))


def _choose_collation(vocabulary: Vocabulary, name: str, facts: Mapping[str, Any]) -> Finding[str | None]:
    collation: str | None = facts.get("collation")
    if collation is None:
        return Finding(None)
    if facts["collation_built_in"] and collation in vocabulary.collations:
        return Finding(collation)
    other = f"column {spell(name)} is made with the default collation, not {spell(collation)}"
    return Finding(None, warnings=(other,))


def _build_identity(facts: Mapping[str, Any]) -> Identity | None:
    if facts["identity"] is None:
        return None
    words = ("seqstart", "seqincrement", "seqmin", "seqmax", "seqcache", "seqcycle")
    return Identity(facts["identity"], *(facts[word] for word in words))


def _build_key(facts: Mapping[str, Any], columns: Mapping[str, str]) -> NewKey:
    return NewKey(
        facts["name"],
        facts["is_primary"],
        tuple(columns[each] for each in facts["columns"]),
        tuple(columns[each] for each in facts["included"]),
        nulls_not_distinct=facts["nulls_not_distinct"],
        deferrable=facts["deferrable"],
        deferred=facts["deferred"],
        comment=facts["comment"],
    )


def match(
    spec: CopySpec, source: Session, target: Session, given: Relation, known: Blueprint | None
) -> Finding[ColumnMatch]:
    """Return the table to be made, with all columns of the source or the chosen ones.

    `known` is what a batch has read of both ends; without, it is asked for.
    """
    placed = _name(spec, target)
    name, label = placed.value, str(placed.value)
    chosen = {each.name: each.name for each in given.columns} if spec.columns is None else dict(spec.columns)
    named = refuse([*column_match.check_names(given, chosen), *column_match.check_source(given, chosen)])
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
    """Return the full name that a new table `asked` would get.

    As everywhere in SQL, a name without a schema goes into the first schema of the role's search_path.
    """
    return TableName(asked.schema or next(iter(target.search_path), None), asked.name)


def _name(spec: CopySpec, target: Session) -> Finding[TableName]:
    """Return the full name; refuse it without its schema, or without the right to create a table there."""
    name, role = place(target, spec.target_table), target.server.role
    schema = name.schema
    found = schema and target.fetch_one(_DEFINE["schema_there"], {"schema": schema, "name": name.name})
    if not found:
        message = (
            f"{name}: there is no schema {spell(schema)} in {target.endpoint}" if schema else f"{name}: no schema given"
        )
        hint = f"make it: {table_statements.create_schema(schema).as_string(None)}" if schema else "give one"
        return Finding(name, (Refusal("no_such_schema", message, str(name), hint=hint),))
    refusals = []
    # A table brings a row type of its own name, which another type of that name forbids.
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
    """Return the source's keys on the `copied` columns, and the key that later runs need."""
    made = original.choose_keys(copied, major=target.server.major)
    demanded = _build_demanded_keys(spec, made.value, copied)
    named = [_name_key(target, table, key) for key in (*made.value, *demanded.value)]
    said = join(made, demanded, *named)
    return Finding(tuple(each.value for each in named), said.refusals, warnings=said.warnings)


def _build_demanded_keys(
    spec: CopySpec, keys: tuple[NewKey, ...], copied: Mapping[str, str]
) -> Finding[tuple[NewKey, ...]]:
    """Return the key by which later runs pair rows, unless the source has one like it."""
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
    """Return the key with its own name if that is free and fits.

    Otherwise it has no name, and the server chooses one.
    """
    if key.name is None or _is_free(target, table, key.name):
        return Finding(key)
    other = f"{key.kind} {spell(key.name)} gets another name: this one is taken, or does not fit"
    return Finding(replace(key, name=None), warnings=(other,))


def _is_free(target: Session, table: TableName, name: str) -> bool:
    length = count_bytes(target, name)
    # An index of this name stands beside the tables of its schema, and the table itself will have the name.
    if name == table.name or length is None or length > NAME_BYTES:
        return False
    return not target.fetch_value(_DEFINE["name_there"], {"schema": table.schema, "name": name})

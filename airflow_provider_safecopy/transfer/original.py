"""Original: what the source says of its columns and keys, as far as it means the same in another database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer.bulk import ask_all
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.definition import Identity, NewColumn, NewKey
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.name import spell
from airflow_provider_safecopy.transfer.refusal import NAME_BYTES
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spelling import count_bytes
from airflow_provider_safecopy.transfer.vocabulary import Vocabulary, read_vocabulary

_DEFINE = sql.load("define")
_QUESTIONS = ("columns", "keys", "table_comment")
# Every table has these already, unseen.
_SYSTEM_COLUMNS = frozenset({"tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"})


@dataclass(frozen=True)
class SourceDefinition:
    """What the source has of a table beside names and types. Of a view or a query nothing is taken."""

    columns: Mapping[str, Mapping[str, Any]]
    keys: tuple[Mapping[str, Any], ...] = ()
    comment: str | None = None

    @classmethod
    def read(cls, source: Session, relation: Relation) -> SourceDefinition:
        """Asked of the source."""
        if relation.kind not in ("r", "p"):
            return cls({})
        asked = {"oid": relation.oid}
        columns, keys = source.fetch_all(_DEFINE["columns"], asked), source.fetch_all(_DEFINE["keys"], asked)
        return cls.from_rows(columns, keys, source.fetch_value(_DEFINE["table_comment"], asked))

    @classmethod
    def from_rows(
        cls, columns: Iterable[Mapping[str, Any]], keys: Iterable[Mapping[str, Any]], comment: str | None
    ) -> SourceDefinition:
        """Return what the rows of these questions to the source say."""
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
        """Return a column for a table that has rows: it may be NULL, whatever it may be in the source."""
        found = self.columns.get(source_column.name, {})
        collation = _choose_collation(vocabulary, name, found)
        new = NewColumn(name, source_column.type, found.get("comment"), collation=collation.value)
        return Finding(new, warnings=collation.warnings)

    def build_column(self, vocabulary: Vocabulary, source_column: Column, name: str) -> Finding[NewColumn]:
        """Return a column for a new table, with warnings of what cannot be like the source's."""
        found = self.columns.get(source_column.name)
        if found is None:
            return Finding(NewColumn(name, source_column.type))
        default, collation = _choose_default(vocabulary, name, found), _choose_collation(vocabulary, name, found)
        new = NewColumn(
            name,
            source_column.type,
            found["comment"],
            not_null=found["not_null"],
            default=default.value,
            identity=_build_identity(found),
            collation=collation.value,
        )
        return Finding(new, warnings=default.warnings + collation.warnings)

    def choose_keys(self, columns: Mapping[str, str], *, major: int) -> Finding[tuple[NewKey, ...]]:
        """Return primary key and unique constraints on the copied `columns`, for a target of this major version."""
        made, lost = [], []
        for found in self.keys:
            wanted = (*found["columns"], *found["included"])
            why = next((f"{spell(each)} is not copied" for each in wanted if each not in columns), None)
            if found["temporal"] or (found["nulls_not_distinct"] and major < 15):
                why = "not every target knows its kind"
            if why is None:
                made.append(_build_key(found, columns))
            else:
                kind = "primary key" if found["is_primary"] else "unique constraint"
                lost.append(f"{kind} {spell(found['name'])} is not made: {why}")
        return Finding(tuple(made), warnings=tuple(lost))


def read_source_definitions(source: Session, relations: Sequence[Relation]) -> dict[int, SourceDefinition]:
    """Return what `Original.of` does for each relation, by its oid, by three questions in all."""
    tables = [each for each in relations if each.kind in ("r", "p")]
    asked = [{"oid": each.oid} for each in tables]
    answers = [ask_all(source, _DEFINE[question], {"oid": "oid"}, asked) for question in _QUESTIONS]
    found = {each.oid: SourceDefinition({}) for each in relations}
    for each, columns, keys, comment in zip(tables, *answers, strict=True):
        found[each.oid] = SourceDefinition.from_rows(columns, keys, next(iter(comment[0].values())))
    return found


@dataclass(frozen=True)
class Blueprint:
    """What new columns are made from: the source's definition, and the target's vocabulary."""

    source_definition: SourceDefinition
    vocabulary: Vocabulary


def read_blueprint(
    source: Session, target: Session, relation: Relation, names: Iterable[str], *, defaults: bool = True
) -> Blueprint:
    """Ask both ends for what new columns like those of `relation` called `names` depend on."""
    chosen = set(names)
    original = SourceDefinition.read(source, relation)
    types = [each.type for each in relation.columns if each.name in chosen]
    expressions = original.list_defaults(chosen) if defaults else ()
    return Blueprint(original, read_vocabulary(target, types, expressions, original.list_collations(chosen)))


def plan_target_column(
    target: Session, vocabulary: Vocabulary, source_column: Column, name: str, label: str
) -> Column | Refusal:
    """The column as it would be in the target, or why it cannot be there."""
    length, place, column = count_bytes(target, name), target.server.encoding, spell(name)
    if length is None:
        message = f"column {column} cannot be spelled in {place}, the encoding of {target.endpoint}"
        return Refusal("name_not_in_encoding", message, label, column, "give it another name with columns")
    if length > NAME_BYTES:
        message = f"column {column} is {length} bytes long in {place}; PostgreSQL would silently cut it at {NAME_BYTES}"
        return Refusal("name_too_long", message, label, column, "give it a shorter name with columns")
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
    return Column(name, source_column.type, **found.facts)


def _choose_default(vocabulary: Vocabulary, name: str, facts: Mapping[str, Any]) -> Finding[str | None]:
    expression: str | None = facts["expression"]
    if expression is None:
        return Finding(None)
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

"""Column match: which column goes into which, which types may be wider, and why one does not fit.

If a statement on a table would fix it, the refusal's hint gives that statement.

Widening: a type that differs, and still holds every value of the source with its exact text and meaning.

| the source's type | goes into the target's |
|---|---|
| smallint, integer, bigint | a wider one of these; numeric; numeric(p,0) with p ≥ 5, 10, 19 |
| numeric(p,s) | numeric(q,s) with q ≥ p; numeric |
| character varying(n) | character varying(m) with m ≥ n; character varying; text |
| character varying, text | each other |
| timestamp(p), time(p), interval(p), with or without time zone | the same with (q), q ≥ p; none means 6 |
| bit varying(n) | bit varying(m) with m ≥ n; bit varying |
| an array of one of these | an array of what its elements go into |

Nothing else. Left out on purpose, though PostgreSQL would take them: real into double precision (0.1 becomes another
number, 12345678 another text), character(n) (its padding is part of the text), bit(n), numeric with another scale,
integers into numeric with a scale (5 becomes 5.00), date into timestamp, json into jsonb, timestamp into timestamptz,
intervals of certain fields, and domains (their rules are a user's own).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import table_statements
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.planning.preflight import explain_difference, refuse_privilege
from airflow_provider_safecopy.planning.table_definition import Definition, NewColumn
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec

ColumnPair = tuple[Column, Column]


@dataclass(frozen=True)
class ColumnMatch:
    """The column pairs of a copy, with the target's relation.

    `relation` is the target as it is; or, if `definition` is that of a whole table, as it would be (oid 0).
    """

    pairs: tuple[ColumnPair, ...] = ()
    relation: Relation | None = None
    definition: Definition | None = None


_SPELLED = re.compile(
    r"(?P<name>[a-z ]+?)(?:\((?P<limits>[0-9]{1,9}(?:,-?[0-9]{1,9})?)\))?(?P<zone> with(?:out)? time zone)?(?P<array>\[\])?"
)
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_TIMES = ("timestamp", "time", "interval")
_MAX_PRECISION = 6
# More than any type can be given, so that it compares as the widest.
_UNLIMITED = 1 << 40
_TEXTS = ("character varying", "text")


@dataclass(frozen=True)
class _Type:
    """A built-in type, parsed from the server's spelling."""

    name: str
    limits: tuple[int, ...]
    zone: str
    array: bool

    def limit(self, unlimited: int) -> int:
        """Return the one number in its parentheses, or `unlimited` without parentheses."""
        return self.limits[0] if self.limits else unlimited


def can_widen(source_type: str, target_type: str) -> bool:
    """Return whether `target_type` is wider than `source_type`.

    Both are as the server spells them under ``search_path = pg_catalog``.
    """
    one, other = _parse_type(source_type), _parse_type(target_type)
    if source_type == target_type or one is None or other is None or one.array != other.array or one.zone != other.zone:
        return False
    if one.name in _DIGITS:
        return _holds_integers(_DIGITS[one.name], other)
    if one.name == "numeric":
        return other.name == "numeric" and _holds_digits(one.limits, other.limits)
    if one.name in _TEXTS and other.name in _TEXTS:
        return one.limit(_UNLIMITED) <= other.limit(_UNLIMITED)
    unlimited = {"bit varying": _UNLIMITED, **dict.fromkeys(_TIMES, _MAX_PRECISION)}.get(one.name)
    return one.name == other.name and unlimited is not None and one.limit(unlimited) <= other.limit(unlimited)


def _holds_integers(digits: int, target: _Type) -> bool:
    if target.name == "numeric":
        # With a scale, 5 would become 5.00: another text.
        return not target.limits or (target.limits[1] == 0 and target.limits[0] >= digits)
    return digits < _DIGITS.get(target.name, 0)


def _holds_digits(source_limits: tuple[int, ...], target_limits: tuple[int, ...]) -> bool:
    """Return whether a numeric with `target_limits` holds one with `source_limits`, as the same text."""
    if not target_limits:
        return True
    # The same scale, so that 1.50 stays 1.50.
    return bool(source_limits) and source_limits[1] == target_limits[1] and source_limits[0] <= target_limits[0]


def _parse_type(text: str) -> _Type | None:
    """Return the parsed type; None for a type of a user.

    Those are spelled with their schema.
    """
    found = _SPELLED.fullmatch(text)
    if found is None:
        return None
    limits = tuple(int(number) for number in (found["limits"] or "").split(",") if number)
    return _Type(found["name"], limits, found["zone"] or "", found["array"] is not None)


def check_names(source: Relation, chosen: Mapping[str, str]) -> Iterator[Refusal]:
    """Yield a refusal if two columns have one name, as a query allows."""
    names = [column.name for column in source.columns if column.name in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        message = f"{source.label} has two columns of one name: {', '.join(map(spell, twice))}"
        yield Refusal("column_twice", message, source.label, spell(twice[0]), "give each a name of its own")


def check_source(source: Relation, chosen: Mapping[str, str]) -> Iterator[Refusal]:
    """Yield a refusal of each chosen column that the source does not have."""
    for name in chosen:
        if source.column(name) is None:
            problem = f"is not in the source {source.label}"
            yield _refuse_column(
                "column_missing", source, name, problem, "check the spelling in columns", candidates=source
            )


def check_columns(source: Relation, target: Relation, chosen: Mapping[str, str], spec: CopySpec) -> Iterator[Refusal]:
    """Yield refusals of columns that are missing, left over, or computed."""
    yield from check_source(source, chosen)
    for name, wanted in chosen.items():
        given, taken = source.column(name), target.column(wanted)
        if taken is None:
            problem, hint = f"is not in the target {target.label}", _suggest_adding(target, wanted, given, spec)
            yield _refuse_column("column_extra", target, wanted, problem, hint, candidates=target)
        elif taken.generated:
            problem, hint = f"is generated in the target {target.label}", "leave it out: the target computes it"
            yield _refuse_column("column_generated", target, wanted, problem, hint, candidates=target)
        elif wanted == spec.missing_column:
            problem, hint = "is missing_column, and copied from the source", "leave it out, or name another"
            yield _refuse_column("missing_column", target, wanted, problem, hint, candidates=target)
    for column in target.columns:
        if column.name in chosen.values() or column.generated or column.name == spec.missing_column:
            continue
        if spec.columns is None:
            # Whatever `drift` says: a copy would reset the column to its default without a message.
            problem = f"of the target is not in the source {source.label}; new rows would have its default there"
            yield _refuse_column(
                "column_missing",
                target,
                column.name,
                problem,
                _suggest_removal(source, target, column),
                candidates=source,
            )
        elif column.not_null and not column.has_default:
            hint = "copy it too, or give it a default"
            problem = "may not be NULL and has no default"
            yield _refuse_column("column_required", target, column.name, problem, hint, candidates=target)


def check_pairs(
    pairs: Sequence[ColumnPair], source: Session, target: Session, relations: tuple[Relation, Relation]
) -> Iterator[Refusal]:
    """Yield refusals of column pairs that cannot be copied.

    Their values would not mean the same on the other side, or this role may not use them.
    """
    read, written = relations
    for given, taken in pairs:
        yield from _check_types(given, taken, written)
        if given.is_money and taken.is_money and _read_money_locale(source) != _read_money_locale(target):
            yield Refusal(
                "money",
                f"{written.label}.{spell(taken.name)} is money, which means another amount under another lc_monetary "
                f"({source.server.lc_monetary} and {target.server.lc_monetary})",
                table=written.label,
                column=spell(taken.name),
                hint="use numeric, or give both databases one lc_monetary",
            )
        if not taken.may_use:
            yield refuse_privilege(
                written.label, target.server.role, f"USAGE on type {taken.type} or on its schema", taken.name
            )
        # A right that is lacking on the whole table has been refused once: not again for each column.
        if read.may_select and not given.may_select:
            yield refuse_privilege(read.label, source.server.role, f"SELECT on column {spell(given.name)}", given.name)
        rights = (("SELECT", written.may_select, taken.may_select), ("INSERT", written.may_insert, taken.may_insert))
        for right, somewhere, granted in rights:
            if somewhere and not granted:
                yield refuse_privilege(
                    written.label, target.server.role, f"{right} on column {spell(taken.name)}", taken.name
                )


def explain_widening(pairs: Sequence[ColumnPair]) -> Iterator[str]:
    """Yield the reasons why types that differ are accepted."""
    for given, taken in pairs:
        if given.type != taken.type and not given.has_type_of(taken):
            yield f"column {spell(taken.name)}: {taken.type} holds every {given.type} of the source, as the same text"


def _check_types(source_column: Column, target_column: Column, target: Relation) -> Iterator[Refusal]:
    place, asked = f"{target.label}.{spell(target_column.name)}", spell(source_column.name)
    if source_column.has_type_of(target_column):
        return
    if source_column.type != target_column.type and not can_widen(source_column.type, target_column.type):
        # A wider type takes the old values by itself; any other needs a cast that a person must think about.
        using = not can_widen(target_column.type, source_column.type)
        known = not source_column.structure and not target_column.structure
        mend = table_statements.retype(
            _require_name(target), target_column.name, source_column.type, using=using
        ).as_string(None)
        yield Refusal(
            "type_differs",
            f"{place} is {target_column.type}, but the source's {asked} is {source_column.type}",
            table=target.label,
            column=spell(target_column.name),
            hint=f"make them equal: {mend}; or cast in source_sql: {asked}::{target_column.type}"
            if known
            else f"give both sides one type; source{_made(source_column)}; target{_made(target_column)}",
        )
    elif source_column.type == target_column.type:
        deeper = source_column.inner_shape == target_column.inner_shape
        in_source, in_target = (
            (source_column.structure, target_column.structure)
            if deeper
            else (source_column.inner_shape, target_column.inner_shape)
        )
        yield Refusal(
            "type_differs",
            f"{place}: the type {target_column.type} is made differently on the two sides",
            table=target.label,
            column=spell(target_column.name),
            hint=f"source: {in_source}; target: {in_target}",
        )


def _made(column: Column) -> str:
    return column.structure or f": {column.type}"


def _suggest_adding(target: Relation, name: str, source_column: Column | None, spec: CopySpec) -> str:
    """Return the hint for a column that the target lacks."""
    if source_column is None:
        return "add it to the target, or leave it out with columns"
    mend = table_statements.add_columns(_require_name(target), [NewColumn(name, source_column.type)]).as_string(None)
    others = "drift=add_columns, drift=ignore_extra" if spec.columns is None else "drift=add_columns"
    return f"add it: {mend}; or ask for {others}, or leave it out with columns"


def _suggest_removal(source: Relation, target: Relation, column: Column) -> str:
    """Return the hint for a column that the source lacks."""
    dropped = table_statements.drop_column(_require_name(target), column.name).as_string(None)
    into = ""
    if source.kind in "rp":
        into = ": " + table_statements.add_columns(
            _require_name(source), [NewColumn(column.name, column.type)]
        ).as_string(None)
    return f"add it to the source{into}; or drop it from the target: {dropped}; or choose with columns"


def _require_name(relation: Relation) -> TableName:
    assert relation.name is not None  # noqa: S101 -- a query has none, and is nothing one could alter
    return relation.name


def _read_money_locale(session: Session) -> str:
    """Return the part of lc_monetary that amounts depend on."""
    # The codeset does not change an amount, and POSIX is another name of C.
    name = session.server.lc_monetary.partition(".")[0]
    return "C" if name == "POSIX" else name


def _refuse_column(
    code: str, relation: Relation, name: str, problem: str, hint: str, *, candidates: Relation
) -> Refusal:
    alike = [spell(each.name) + why for each in candidates.columns if (why := explain_difference(name, each.name))]
    step = f"there is {', '.join(alike)}; name each in columns exactly as it is stored" if alike else hint
    return Refusal(code, f"column {spell(name)} {problem}", table=relation.label, column=spell(name), hint=step)

"""Dependents of a table, moved to the one that takes its place in a swap.

Rights, comments, triggers, policies, publications, views, foreign keys from elsewhere: the server itself says in
SQL what each is, and is told so again once the new table has the name. What it cannot be told again refuses the swap.
Not carried here are the parts a table is made of: columns, indexes, constraints, statistics, sequences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.catalog import KINDS, Relation
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.session import Session

_CARRY = sql.load("carry")
_PHASES = ("first", "before", "after", "lock", "dependent", "presumed")
_KEEP = "ask for publish=delta or publish=delete_insert: they keep the table; publish=auto chooses among them"
# By the problem's word in carry.sql: the refusal's code, what is wrong, and the next step.
_PROBLEMS = {
    "typed": ("swap_kind", "is a table of {object}, which a new table cannot be made to be in its place", _KEEP),
    "inheritance": ("swap_kind", "inherits from, or is inherited by, {object}", _KEEP),
    "extension": ("swap_kind", "belongs to, or depends on, {object}", _KEEP),
    "depends": ("swap_depends", "{object} depends on it, and cannot be carried over to another table", _KEEP),
    "published": (
        "swap_published",
        "the new table would be sent to the subscribers of publication {object} while it is built",
        "publish the tables by name, or " + _KEEP,
    ),
    "subscribed": ("swap_published", "subscription {object} writes into it, and would not into another table", _KEEP),
    "lacks": ("privilege", "role {role} lacks {object}", "grant it to {role}, or " + _KEEP),
    "owner_lacks": ("privilege", "its owner {owner} lacks {object}", "grant it to {owner}, or " + _KEEP),
    "granted": ("privilege", "role {role} cannot grant again, in the grantor's name, {object}", _KEEP),
}


@dataclass(frozen=True)
class DependentStatements:
    """Statements that carry over what hangs on a table, to be run in one transaction, under search_path = pg_catalog.

    `first` is run before the table is locked: it takes the locks on others in the order readers take them, the views
    before the table they read, so that neither waits for the other. `before` is run with the table locked ACCESS
    EXCLUSIVE and in its place; `after` with the new table in its place, all its parts bearing their final names, and
    the old one not dropped yet. `locks` names, as SQL, the other relations that are locked.

    Two that are equal carry the same, `dependents` being for this alone: read under the lock and compared with what was
    read before, it shows whether a dependent of the table changed meanwhile. `presumed` are those of `after`
    that only revoke what default privileges have granted on the new table.
    """

    first: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    locks: tuple[str, ...]
    dependents: tuple[str, ...]
    presumed: tuple[str, ...]

    @property
    def likeness(self) -> Mapping[str, int]:
        """The dependents, in words that are equal for another table of its name with the same ones."""
        return Counter((*self.first, *self.before, *self.after)) - Counter(self.presumed)


def read_statements(session: Session, relation: Relation, new: TableName) -> DependentStatements:
    """Return statements that keep all dependents of a table that is not refused, and is still in its place.

    `new` is the table that will take it, where it is now: what default privileges granted on that one is taken back.
    """
    told: dict[str, list[str]] = {name: [] for name in _PHASES}
    for row in session.fetch_all(_CARRY["statements"], {"oid": relation.oid, "schema": new.schema, "name": new.name}):
        told[row["phase"]].append(row["statement"])
    return DependentStatements(*(tuple(each) for each in told.values()))


def compare_rights(session: Session, old: int, new: int) -> list[str]:
    """Return the rights that exist on only one of two tables, their columns and identities included."""
    return [row["apart"] for row in session.fetch_all(_CARRY["compare_rights"], {"old": old, "new": new})]


def refusals(session: Session, relation: Relation) -> Iterator[Refusal]:
    """Why another table cannot take the place of this one, because of what it is or what hangs on it."""
    if relation.kind != "r":
        problem = f"{relation.label} is a {KINDS[relation.kind]}: only an ordinary table can be swapped"
        yield Refusal("swap_kind", problem, relation.label, hint=_KEEP)
        return
    names = {"role": spell(session.server.role), "owner": spell(relation.owner)}
    for row in session.fetch_all(_CARRY["unfit"], {"oid": relation.oid}):
        code, problem, hint = _PROBLEMS[row["problem"]]
        told = problem.format(object=row["object"], **names)
        yield Refusal(code, f"{relation.label}: {told}", relation.label, hint=hint.format(**names))


def check_publications(session: Session, relation: Relation) -> Refusal | None:
    """Why ``auto`` never swaps a published table: its subscribers would go on with the old rows, and without a word."""
    found = session.fetch_one(_CARRY["reluctance"], {"oid": relation.oid})
    if not found or not found["publications"]:
        return None
    problem = f"{relation.label}: subscribers would not get the rows, of publication {', '.join(found['publications'])}"
    return Refusal("swap_published", problem, relation.label, hint="ask for publish=swap, and refresh them afterwards")


def find_drawback(session: Session, relation: Relation) -> str | None:
    """Why a table that can be swapped had better not be, when there is another way; None when nothing speaks against it."""
    found = session.fetch_one(_CARRY["reluctance"], {"oid": relation.oid})
    assert found is not None  # noqa: S101 -- a SELECT without FROM has one row
    told = (
        ("its triggers would not fire: {}", found["triggers"]),
        ("subscribers would not get the rows, of publication {}", found["publications"]),
        ("readers would wait while foreign keys are checked: {}", found["referenced_by"]),
        ("writers of other tables would wait while foreign keys are checked: {}", found["refers_to"]),
        ("of constraints that are NOT VALID it cannot tell new rows from old ones: {}", found["unvalidated"]),
        ("the new table may be changed by event triggers: {}", found["event_triggers"]),
    )
    return "; ".join(problem.format(", ".join(names)) for problem, names in told if names) or None

"""Preflight refusals: why a copy is refused before anything is touched.

Every reason is found, each with its next step.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

import psycopg
from psycopg.sql import Composable

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning.catalog import KINDS, Relation, count_bytes
from airflow_provider_safecopy.planning.copy_script import is_plain
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName, fold_name, spell
from airflow_provider_safecopy.postgres.psql import LOCK_NOT_AVAILABLE
from airflow_provider_safecopy.postgres.session import Session

NAME_BYTES = 63
# Linux takes no longer argument than 128 KiB (MAX_ARG_STRLEN); the page range of a pipe comes on top.
_ARGUMENT_BYTES = 127 * 1024
_LOST = "08"
# Classes of SQLSTATE that say nothing of the SQL: a lost connection, a cancelled statement, a lack of resources.
_UNRELATED_CLASSES = frozenset({_LOST, "40", "53", "57", "58", "XX"})
_SOURCES = "rpvmf"
_TARGETS = "rp"


def check_name(session: Session, name: TableName) -> Iterator[Refusal]:
    """Yield a refusal of a name that the server would cut silently, or cannot spell."""
    for part in (name.schema, name.name):
        # The limit is in bytes of the server's encoding: a Korean syllable takes three in UTF8, and two in EUC_KR.
        length = 0 if part is None else count_bytes(session, part)
        encoding = session.server.encoding
        if length is None:
            yield Refusal(
                "name_not_in_encoding",
                f"{name}: the name cannot be spelled in {encoding}, the encoding of {session.endpoint}",
                table=str(name),
                hint="no table there can have this name; check it",
            )
        elif length > NAME_BYTES:
            yield Refusal(
                "name_too_long",
                f"{name}: the name is {length} bytes long in {encoding}; PostgreSQL would silently cut it at {NAME_BYTES}",
                table=str(name),
                hint="give the name as the server stores it",
            )


def refuse_missing(endpoint: Endpoint, name: TableName, tables: Iterable[TableName]) -> Refusal:
    """Return the refusal of a table that `endpoint` does not have, with similar ones of its `tables`."""
    alike = find_lookalikes(tables, name)
    hint = "check schema and spelling"
    if alike:
        shown = ", ".join(f"{table}{_explain_table_difference(name, table)}" for table in alike)
        hint = f"there is {shown}; give the name exactly as it is stored"
    return Refusal("no_such_table", f"{name}: no such table in {endpoint}", table=str(name), hint=hint)


def find_lookalikes(tables: Iterable[TableName], name: TableName) -> tuple[TableName, ...]:
    """Return the tables that differ from `name` only in normalisation, case or schema.

    Normalisation is NFC or NFD. At most five, those of the same schema first.
    """
    wanted = fold_name(name.name)
    alike = [table for table in tables if fold_name(table.name) == wanted]
    return tuple(sorted(alike, key=lambda table: fold_name(table.schema or "") != fold_name(name.schema or ""))[:5])


def check_text_size(copy: Composable) -> Iterator[Refusal]:
    """Yield a refusal if SQL that is not plain is too long for an argument of psql."""
    size = len(copy.as_string(None).encode())
    # Plain SQL goes through a memory file, which has no such limit.
    if size >= _ARGUMENT_BYTES and not is_plain(copy):
        yield Refusal(
            "sql_too_long",
            f"the export's COPY is {size} bytes long, but psql takes at most {_ARGUMENT_BYTES} bytes of SQL with these characters",
            hint="make a view of it; or remove backslashes, semicolons, and colons before a name: then it may be longer",
        )


def refuse_changed_settings(option: str, session: Session, names: str) -> Refusal:
    """Return the refusal of SQL that changes settings which decide what rows mean."""
    return Refusal(
        "settings_changed",
        f"{option}: a function that it runs on {session.endpoint} changed {names}: such settings decide what rows mean",
        hint="give that function a SET clause of its own: then the change ends with the function",
    )


def refuse_bad_sql(option: str, session: Session, error: psycopg.Error) -> Refusal:
    """Return the refusal of SQL that the server cannot run.

    Raises the error itself if the SQL is not to blame.
    """
    if (error.sqlstate or _LOST)[:2] in _UNRELATED_CLASSES or error.sqlstate == LOCK_NOT_AVAILABLE:
        raise error
    unknown = error.sqlstate in {"42P01", "42883", "42704"}
    hint = (
        "give names their schema: SafeCopy runs with search_path = pg_catalog" if unknown else "check it on the source"
    )
    return Refusal(
        "bad_sql", f"{option}: {session.endpoint} cannot run it: {describe(error)} [{error.sqlstate}]", hint=hint
    )


def check_server(session: Session, *, writing: bool) -> Iterator[Refusal]:
    """Yield refusals of a server whose text cannot be trusted, or that cannot be written to."""
    where = str(session.endpoint)
    if session.server.encoding == "SQL_ASCII":
        yield Refusal(
            "sql_ascii",
            f"{where}: the database {session.server.database} is SQL_ASCII: the meaning of its bytes is not known",
            hint="copy into or from a database with a real encoding, for example UTF8 or EUC_KR",
        )
    if writing and (session.server.in_recovery or session.server.read_only):
        yield Refusal("read_only", f"{where}: the server is read only", hint="give the primary as the target")


def check_source(session: Session, relation: Relation) -> Iterator[Refusal]:
    """Yield the reasons why this role cannot read the whole source."""
    label, role = relation.label, session.server.role
    if relation.kind not in _SOURCES + "q":
        yield Refusal(
            "not_a_source",
            f"{label} is {_add_article(KINDS[relation.kind])}: it cannot be copied from",
            table=label,
            hint="name a table, a view or a foreign table, or give source_sql",
        )
    if relation.persistence == "t":
        yield Refusal(
            "temporary",
            f"{label} is temporary: psql's session cannot see it",
            table=label,
            hint="give a permanent table, or what it was made from in source_sql",
        )
    if not relation.may_enter:
        yield refuse_privilege(label, role, f"USAGE on schema {_spell_schema(relation)}")
    if not relation.may_select:
        yield refuse_privilege(label, role, "SELECT")
    if relation.filtered:
        yield Refusal(
            "row_security",
            f"{label}: row security would hide rows from {role}",
            table=label,
            hint=f"copy as a role with BYPASSRLS or as the owner, or say which rows you want through a view of {role}'s",
        )


def check_target(session: Session, relation: Relation) -> Iterator[Refusal]:
    """Yield the reasons why this role cannot replace the whole target."""
    label, role = relation.label, session.server.role
    if relation.kind not in _TARGETS:
        yield Refusal(
            "not_a_target",
            f"{label} is {_add_article(KINDS[relation.kind])}: rows can be published into a table only",
            table=label,
            hint="name the table itself",
        )
    if relation.persistence == "t":
        yield Refusal(
            "temporary",
            f"{label} is temporary: no other session would see the rows",
            table=label,
            hint="name a permanent table",
        )
    if relation.has_children:
        yield Refusal(
            "inheritance",
            f"{label} has inheritance children: replacing its rows would delete theirs",
            table=label,
            hint="name the child table, or use partitions",
        )
    if relation.rules:
        yield Refusal(
            "rules",
            f"{label} has rules ({', '.join(relation.rules)}): they would rewrite what is published",
            table=label,
            hint="drop the rules, or copy into the table they write to",
        )
    if relation.filtered:
        yield Refusal(
            "row_security",
            f"{label}: row security would hide rows from {role}, which would then survive a replace",
            table=label,
            hint="publish as the owner, or as a role with BYPASSRLS",
        )
    if not relation.may_enter:
        yield refuse_privilege(label, role, f"USAGE on schema {_spell_schema(relation)}")
    for right, granted in (("SELECT", relation.may_select), ("INSERT", relation.may_insert)):
        if not granted:
            yield refuse_privilege(label, role, right)


def _add_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _explain_table_difference(asked: TableName, stored: TableName) -> str:
    # A schema that was not given, or is another one altogether, needs no explanation.
    return explain_difference(asked.name, stored.name) or explain_difference(asked.schema or "", stored.schema or "")


def explain_difference(asked: str, stored: str) -> str:
    """Return why two names that look alike are two.

    Empty if they are one, or could not be mistaken for each other.
    """
    if asked == stored or fold_name(asked) != fold_name(stored):
        return ""
    if asked.casefold() == stored.casefold():
        return " (in other letter case)"
    return f" (in {_find_normal_form(stored)}, you gave {_find_normal_form(asked)}: they only look alike)"


def _find_normal_form(name: str) -> str:
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "mixed Unicode forms")


def _spell_schema(relation: Relation) -> str:
    return spell(relation.name.schema) if relation.name and relation.name.schema else ""


def refuse_privilege(label: str, role: str, right: str, column: str | None = None) -> Refusal:
    """Return the refusal of a right that the role lacks."""
    return Refusal(
        "privilege",
        f"{label}: role {role} lacks {right}",
        table=label,
        column=None if column is None else spell(column),
        hint=f"grant it to {spell(role)}",
    )


def of_publications(relation: Relation, publications: Iterable[str]) -> Iterator[Refusal]:
    """Yield why the server refuses to change rows that `publications` send; nothing if there are none."""
    if found := sorted(set(publications)):
        yield Refusal(
            "no_replica_identity",
            f"{relation.label} is published by {', '.join(map(spell, found))} with a row filter or columns that do not fit "
            "its replica identity: UPDATE or DELETE is refused",
            table=relation.label,
            hint="give it a REPLICA IDENTITY whose columns are those of the filter, and in the column list; or ask for "
            "publish=truncate_insert",
        )


def find_trigger_drawback(relation: Relation) -> str | None:
    """Return the drawback of a publish strategy that writes row by row, or None.

    Triggers may change what it writes.
    """
    if not relation.meddlers:
        return None
    return f"triggers of the table may change what is written ({', '.join(map(spell, relation.meddlers))})"

"""The schema `safecopy` in the target: creation, upgrades by its owner, and rights to use it.

Nothing in it is touched before `CHECK` has passed: the schema may be used only if a trusted role owns it, and if its
tables are nothing but tables.

Triggers, rules, policies and expressions of a table run with the rights of the role that uses the table. A role that
made the schema first, or owned it once, may have left one there for the next user.

Only `safecopy init` takes the schema over from an untrusted role, never a copy.

Plain tables only change their owner, and grants of TRIGGER to others are revoked. If anything else is attached to a table,
the whole schema is renamed and made anew: objects dropped one by one could be attached again meanwhile, and unknown kinds
would be overlooked. Rows are moved by COPY, which plans no query and so runs no expression of the table.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql as compose
from psycopg.pq import TransactionStatus

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockStoreError, Refusal

_TRUST = sql.load("trust")
_ERROR_PREFIX = "untrusted schema: "
_MAX_SHOWN = 5

PIN = _TRUST["pin"]
"""The first statement before every question: names are the server's own until the transaction ends."""

CHECK: LiteralString = _TRUST["check"].replace("{suspicions}", _TRUST["suspicions"])
"""A statement that fails, and its message with it, if the schema cannot be trusted. See `parse_suspicions`."""


@dataclass(frozen=True)
class Suspicion:
    """One reason not to use the schema: its `owner`, a `right` to make triggers, or a `trap` that outlives its owner."""

    kind: str
    description: str


def add_suspicions(present: LiteralString) -> LiteralString:
    """Return the question `present`, with the suspicions against the schema beside its answer."""
    return _TRUST["beside"].replace("{suspicions}", _TRUST["suspicions"]).replace("{present}", present)


def parse_suspicions(error: str) -> tuple[Suspicion, ...] | None:
    """Return the suspicions in an error of `CHECK`; None for any other error."""
    _, mark, text = error.partition(_ERROR_PREFIX)
    if not mark:
        return None
    each = text.rpartition('"')[0].split("; ")
    return tuple(Suspicion(kind, what) for kind, _, what in (one.partition(" ") for one in each))


def describe_suspicions(suspicions: Sequence[Suspicion]) -> str:
    """Return the suspicions in words, for people."""
    reasons = "; ".join(each.description for each in suspicions[:_MAX_SHOWN])
    more = f"; and {len(suspicions) - _MAX_SHOWN} more" if len(suspicions) > _MAX_SHOWN else ""
    return f"the target's schema safecopy is not used, because it could run another role's code as this one: {reasons}{more}"


def suggest_takeover(suspicions: Sequence[Suspicion]) -> str:
    """Return the next step for a person."""
    owned = any(each.kind == "owner" for each in suspicions)
    who = "a superuser, or the database's owner with the rights of those owners," if owned else "its owner"
    return f"have {who} take it over: safecopy init --target …"


def distrust_error(suspicions: Sequence[Suspicion]) -> LockStoreError:
    """Return the error that is raised instead of using the schema."""
    return LockStoreError(describe_suspicions(suspicions), hint=suggest_takeover(suspicions), retryable=False)


def is_trusted_by(connection: psycopg.Connection[Any], role: str) -> bool:
    """Return whether `role` trusts the schema's owner."""
    row = connection.execute(_TRUST["trusted_by"], {"role": role}).fetchone()
    return bool(row and row[0])


_MAX_TOKEN = 1 << 62
# Columns that a row of its table needs. Columns of later layouts have a default.
_REQUIRED_COLUMNS = frozenset(
    {"name", "token", "kind", "at", "lock", "lease_id", "attempt", "owner_key", "source", "target", "proof"}
)

MakeTables = Callable[[psycopg.Connection[Any]], None]


def take_over_schema(
    connection: psycopg.Connection[Any], suspicions: Sequence[Suspicion], *, make_tables: MakeTables
) -> tuple[str, ...]:
    """Take the schema over, inside an open transaction. Return what was done, for people.

    Raises `LockStoreError`. Holders of locks in a renamed schema are fenced out, because every token grows.
    """
    try:
        connection.execute(_TRUST["take_schema"])
        if all(each.kind != "trap" for each in suspicions) and _has_keys(connection):
            return _claim(connection, make_tables)
        return _replace(connection, make_tables)
    except psycopg.errors.InsufficientPrivilege as error:
        message = f"the schema safecopy cannot be taken over: {str(error).strip()}; found: "
        raise LockStoreError(
            message + "; ".join(each.description for each in suspicions),
            sqlstate=error.sqlstate,
            hint="run safecopy init as a superuser, or as a role that has the rights of those owners and CREATE on the "
            "database",
            retryable=False,
        ) from error


def _has_keys(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(_TRUST["keys"]).fetchone()
    return bool(row and row[0])


def _claim(connection: psycopg.Connection[Any], make_tables: MakeTables) -> tuple[str, ...]:
    tables = [name for (name,) in connection.execute(_TRUST["foreign_tables"]).fetchall()]
    for name in tables:
        connection.execute(compose.SQL("ALTER TABLE {} OWNER TO CURRENT_USER").format(_qualify("safecopy", name)))
    makers = connection.execute(_TRUST["trigger_makers"]).fetchall()
    for name, role in makers:
        revoke = compose.SQL("REVOKE TRIGGER ON {} FROM {}")
        who = compose.Identifier(role) if role is not None else compose.SQL("PUBLIC")
        connection.execute(revoke.format(_qualify("safecopy", name), who))
    make_tables(connection)
    if not tables:
        return ("now only its owner may make triggers on its tables",) if makers else ()
    return (f"taken over from its former owner: {', '.join(['the schema', *tables])}",)


def _replace(connection: psycopg.Connection[Any], make_tables: MakeTables) -> tuple[str, ...]:
    # Random, since its owner must not guess the name before COMMIT.
    former = f"safecopy_{secrets.token_hex(8)}"
    connection.execute(compose.SQL("ALTER SCHEMA safecopy RENAME TO {}").format(compose.Identifier(former)))
    make_tables(connection)
    moved = [name for name in ("lock", "receipt", "watermark", "lock_event") if _move(connection, former, name)]
    return (
        f"made anew; the former one is now the schema {former}: look at its contents, then drop it",
        f"rows were copied from {', '.join(moved) or 'none of its tables'}; all holders have lost their locks",
        "only this role and superusers may use it until it is granted: safecopy init --grant ROLE",
    )


def _move(connection: psycopg.Connection[Any], schema: str, name: str) -> bool:
    """Copy the rows of one table, if reading it runs no code. Return whether there was such a table."""
    asked = {"schema": schema, "name": name}
    if connection.execute(_TRUST["former"], asked).fetchone() is None:
        return False
    # Its owner can change it until it is locked, so it is looked at once more.
    connection.execute(compose.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(_qualify(schema, name)))
    row = connection.execute(_TRUST["former"], asked).fetchone()
    facts = (
        connection.execute(_TRUST["columns"], {"former": row[0], "own": f"safecopy.{name}"}).fetchall() if row else []
    )
    columns = [column for column, _, there in facts if there]
    required = [
        column for column, required, _ in facts if required and (column in columns or column in _REQUIRED_COLUMNS)
    ]
    if not columns or not set(required) <= set(columns):
        return False
    _copy_rows(connection, _qualify(schema, name), name, _join_names(columns))
    connection.execute(_build_insert(name, _join_names(columns), _build_condition(required)))
    if name in ("receipt", "lock_event"):
        connection.execute(
            compose.SQL(
                "SELECT setval(pg_get_serial_sequence({}, 'id'), COALESCE(max(id), 0) + 1, false) FROM {}"
            ).format(compose.Literal(f"safecopy.{name}"), _qualify("safecopy", name))
        )
    return True


def _copy_rows(
    connection: psycopg.Connection[Any], old_table: compose.Identifier, name: str, columns: compose.Composed
) -> None:
    """Copy rows into a temporary table without constraints; those that do not fit ours are left out later."""
    connection.execute(
        compose.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
            compose.Identifier(_temporary_name(name)), columns, _qualify("safecopy", name)
        )
    )
    with connection.cursor() as cursor:
        with cursor.copy(compose.SQL("COPY {} ({}) TO STDOUT").format(old_table, columns)) as rows:
            content = b"".join(bytes(block) for block in rows)
        into = compose.SQL("COPY pg_temp.{} ({}) FROM STDIN").format(compose.Identifier(_temporary_name(name)), columns)
        with cursor.copy(into) as rows:
            rows.write(content)


def _build_insert(name: str, columns: compose.Composed, condition: compose.Composed) -> compose.Composed:
    own, moved = _qualify("safecopy", name), _qualify("pg_temp", _temporary_name(name))
    # Locks come back free, with a token above every token granted so far.
    if name == "lock":
        return compose.SQL(
            "INSERT INTO {} (name, token) SELECT name, LEAST(max(token), {}) + 1 FROM {} WHERE {} AND token >= 0 GROUP BY name"
        ).format(own, compose.Literal(_MAX_TOKEN), moved, condition)
    return compose.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} WHERE {} ON CONFLICT DO NOTHING"
    ).format(own, columns, columns, moved, condition)


def _build_condition(required: Sequence[str]) -> compose.Composed:
    return compose.SQL(" AND ").join(
        compose.SQL("{} IS NOT NULL").format(compose.Identifier(each)) for each in required
    )


def _temporary_name(name: str) -> str:
    return f"safecopy_moved_{name}"


def _join_names(columns: Any) -> compose.Composed:
    return compose.SQL(", ").join(map(compose.Identifier, columns))


def _qualify(schema: str, name: str) -> compose.Identifier:
    return compose.Identifier(schema, name)


_SCHEMA = sql.load("schema")
# Sessions that have found the schema of this oid trusted. Once is enough: only trusted roles could change it. The
# check takes ten times as long as asking whether the schema is there.
_TRUSTED: WeakKeyDictionary[psycopg.Connection[Any], int] = WeakKeyDictionary()
# The server opens a table to spell its defaults, and another session may have locked that table.
_LOCK_TIMEOUT: LiteralString = "SET LOCAL lock_timeout = '5s'"
_PRESENT_WITH_SUSPICIONS = add_suspicions(_SCHEMA["present"])
_MAKING_STATEMENTS = (
    "schema",
    "comment",
    "lock",
    "lock_columns",
    "lock_of_layout_1",
    "member",
    "lock_event",
    "lock_event_index",
    "receipt",
    "receipt_index",
    "receipt_columns",
    "receipt_slice",
    "receipt_texts",
    "watermark",
    "watermark_columns",
    "watermark_texts",
)
# Data errors of a name and of no row: NUL (found by the driver, without a code), letters that the server lacks.
_CALLER_ERRORS = frozenset({None, "22021", "22P05"})
_GRANTS = ("grant_schema", "grant_lock", "grant_member", "grant_lock_event", "grant_receipt", "grant_watermark")


@dataclass(frozen=True)
class SchemaState:
    """State of the schema. `is_current`: it has this layout. `is_owned`: this role may upgrade it."""

    is_current: bool
    exists: bool
    is_owned: bool
    suspicions: tuple[Suspicion, ...]


def init(connection: psycopg.Connection[Any], *, grant: str | None = None, take_over: bool = False) -> tuple[str, ...]:
    """Make the schema `safecopy`, or leave it as it is; let the role `grant` use it. Raises `LockStoreError`.

    Creating it needs CREATE on the database, once; bringing up an earlier layout, to be its owner. Two at a time do no
    harm. An untrusted schema is refused, or with `take_over` taken from its owner. Returns what the takeover did, for
    people.
    """
    try:
        found = read_state(connection)
        if grant is None and found.is_current and not found.suspicions:
            return ()
        with connection.transaction():
            connection.execute(PIN)
            connection.execute(_SCHEMA["guard"])
            done = _upgrade(connection, take_over=take_over)
            for privilege in _build_grants(grant) if grant else ():
                connection.execute(privilege)
            if grant and not is_trusted_by(connection, grant):
                raise _grant_error(grant)
            return done
    except psycopg.Error as error:
        raise store_error("the schema safecopy cannot be made", error) from error


def read_state(connection: psycopg.Connection[Any]) -> SchemaState:
    """Return the state of the schema, by one question of the catalogs that any role may ask."""
    if connection in _TRUSTED:
        ((made, schema_made, mine, oid),) = _ask(connection, _SCHEMA["present"])
        if oid == _TRUSTED[connection]:
            return SchemaState(made, schema_made, mine, ())
    ((made, schema_made, mine, oid, found),) = _ask(connection, _PRESENT_WITH_SUSPICIONS)
    suspicions = tuple(Suspicion(*each) for each in found)
    if made and not suspicions:
        _TRUSTED[connection] = oid
    return SchemaState(made, schema_made, mine, suspicions)


def find_refusals(connection: psycopg.Connection[Any], *, role: str, may_create: bool) -> tuple[Refusal, ...]:
    """Return why this role cannot hold a lock and keep a receipt here; empty if it can."""
    hint = f"have an owner of the database run: safecopy init --target … --grant {role}"
    found = read_state(connection)
    if found.suspicions:
        return (
            Refusal(
                "untrusted_schema",
                describe_suspicions(found.suspicions),
                hint=f"{suggest_takeover(found.suspicions)} --grant {role}",
            ),
        )
    if found.is_current:
        ((usable,),) = _ask(connection, _SCHEMA["usable"])
        if usable:
            return ()
        lacking = ", ".join(told for (told,) in _ask(connection, _SCHEMA["lacking"]))
        return (Refusal("not_granted", f"role {role} may not use the schema safecopy: it lacks {lacking}", hint=hint),)
    if not may_create or (found.exists and not found.is_owned):
        what = "is of an earlier version" if found.exists else "is missing"
        told = f"the target's schema safecopy, which holds lock and receipts, {what}"
        return (Refusal("not_initialised", told, hint=hint),)
    return ()


def build_repair_hint(lock: str) -> str:
    """Return the next step for a lock whose row cannot be used."""
    return (
        f"safecopy locks release {shlex.quote(lock)} clears the row, all but its token: a token that is wrong is to be put "
        "above all in safecopy.receipt, by UPDATE safecopy.lock"
    )


def store_error(problem: str, error: psycopg.Error | UnicodeEncodeError, *, lock: str | None = None) -> LockStoreError:
    """Return the error of a store in a database, with the next step for missing rights and garbled rows."""
    # A name, an owner or a reason holds bytes of another encoding.
    if isinstance(error, UnicodeEncodeError):
        told = f"{problem}: a text of it is none: {error.reason}"
        return LockStoreError(told, hint="give names, owners and reasons in UTF-8", retryable=False)
    if (found := parse_suspicions(str(error))) is not None:
        return distrust_error(found)
    denied = error.sqlstate in {"42501", "42703", "42704", "3F000", "42P01"}
    # The name of a lock is too long for an index.
    too_long = error.sqlstate == "54000"
    hint = "run safecopy init as a role that may, with --grant for this one" if denied else ""
    garbled = isinstance(error, psycopg.DataError | psycopg.errors.NotNullViolation)
    if lock is not None and garbled and error.sqlstate not in _CALLER_ERRORS:
        hint = build_repair_hint(lock)
    return LockStoreError(
        f"{problem}: {str(error).strip()}",
        sqlstate=error.sqlstate,
        hint=hint,
        retryable=not (denied or too_long or garbled),
    )


def is_ready(connection: psycopg.Connection[Any]) -> bool:
    """Return whether the schema is there, in this layout. Raises `LockStoreError` if it cannot be trusted."""
    found = read_state(connection)
    if found.suspicions:
        raise distrust_error(found.suspicions)
    return found.is_current


def _ask(connection: psycopg.Connection[Any], question: LiteralString) -> list[tuple[Any, ...]]:
    """Ask in one message, and pin search_path first: it may put others' functions before the server's."""
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    pins = PIN + ("; " + _LOCK_TIMEOUT if idle else "")
    try:
        cursor = connection.execute(pins + "; " + question)
    except psycopg.errors.LockNotAvailable as error:
        raise store_error("the schema safecopy cannot be looked at", error) from error
    while cursor.nextset():
        pass
    return cursor.fetchall()


def _upgrade(connection: psycopg.Connection[Any], *, take_over: bool) -> tuple[str, ...]:
    found, done = read_state(connection), tuple[str, ...]()
    if found.suspicions and not take_over:
        raise distrust_error(found.suspicions)
    if found.suspicions:
        done = take_over_schema(connection, found.suspicions, make_tables=_make_tables)
    elif not found.is_current:
        _make_tables(connection)
    # Another role may have made the schema since the first look.
    _TRUSTED.pop(connection, None)
    if left := read_state(connection).suspicions:
        raise distrust_error(left)
    return done


def _make_tables(connection: psycopg.Connection[Any]) -> None:
    for statement in _MAKING_STATEMENTS:
        connection.execute(_SCHEMA[statement])


def _grant_error(role: str) -> LockStoreError:
    return LockStoreError(
        f"the schema safecopy cannot be granted to {role}: it belongs to another role, whose code its tables could run "
        f"with the rights of {role}",
        hint="run safecopy init as the database's owner or as a superuser",
        retryable=False,
    )


def _build_grants(role: str) -> tuple[compose.Composed, ...]:
    to = compose.Identifier(role)
    return tuple(compose.SQL(_SCHEMA[name]).format(to) for name in _GRANTS)

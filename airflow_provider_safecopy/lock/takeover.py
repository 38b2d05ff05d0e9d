"""Takeover of the schema `safecopy` from an untrusted role: only by `safecopy init`, never by a copy.

Plain tables only change their owner, and grants of TRIGGER to others are revoked. If anything else is attached to a table,
the whole schema is renamed and made anew: objects dropped one by one could be attached again meanwhile, and unknown kinds
would be overlooked. Rows are moved by COPY, which plans no query and so runs no expression of the table.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import sql as compose

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.trust import Suspicion

_TRUST = sql.load("trust")
_MAX_TOKEN = 1 << 62
# Columns that a row of its table needs. Columns of later layouts have a default.
_REQUIRED_COLUMNS = frozenset(
    {"name", "token", "kind", "at", "lock", "lease_id", "attempt", "owner_key", "source", "target", "proof"}
)

MakeTables = Callable[[psycopg.Connection[Any]], None]


def take_over(
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
    former = f"safecopy_{secrets.token_hex(8)}"  # its owner cannot guess it before COMMIT
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
    # From here on its owner cannot change it; until now it could, so ask once more.
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
    if name == "lock":  # free, with a token above every token granted so far
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

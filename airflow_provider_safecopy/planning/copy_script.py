r"""The scripts of psql for export and import, and the conditions of a read range.

A script reports by marked lines, with `\warn`: the server's own row count and backend pid come back that way. ROW_COUNT
is right after `\g` to a file, and zero after COPY to psql's stdout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.statements import (
    create_staging,
    hide_staging,
    list_columns,
    set_local,
    table,
    verbatim,
)
from airflow_provider_safecopy.spec import Timeouts


def proof(snapshot: str) -> Composed:
    """Ask which relations were replaced, in hex, and whether the transaction of `snapshot` is open.

    The first proves it for tables, their partitions and tables behind views. The second adds that everything seen in
    planning is unchanged, because that transaction has locked it.
    """
    query = SQL(
        # In hex: a name may hold a line break, which would end the mark.
        "SELECT pg_catalog.encode(pg_catalog.convert_to(r.safecopy_replaced, 'UTF8'), 'hex') AS safecopy_replaced, "
        "EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE k.locktype = 'virtualxid' AND k.granted "
        "AND k.mode = 'ExclusiveLock' AND k.virtualtransaction = {}) AS safecopy_keeper FROM ({}) AS r"
    )
    return query.format(Literal(_parse_transaction(snapshot)), verbatim(sql.load("snapshot")["replaced"]))


def read_alone() -> Composable:
    """Compose the statement that forbids parallel workers where the proof could miss what they read."""
    return verbatim(sql.load("snapshot")["read_alone"])


def _parse_transaction(snapshot: str) -> str:
    """Return the transaction that exported `snapshot`, as pg_locks spells it."""
    # The name of a snapshot contains the transaction that exported it.
    backend, transaction, _ = snapshot.split("-")
    return f"{int(backend, 16)}/{int(transaction, 16)}"


# NaN and infinity are greater than all other values and say nothing of how far a copy has come: as a watermark, they
# would hide every later row.
_ENDLESS: dict[str, LiteralString] = {
    "numeric": "{} NOT IN ('NaN', 'Infinity', '-Infinity')",
    "date": "isfinite({})",
    "timestamp without time zone": "isfinite({})",
    "timestamp with time zone": "isfinite({})",
}


def match_range(
    column: str, type_: LiteralString, *, start: str | None, end: str | None, nulls: bool
) -> Composed | None:
    """Compose the condition of rows from `start` up to but not including `end`.

    With `nulls` also of those whose cursor is NULL. None if neither end is given.
    """
    sides = [
        SQL("{} {} {}").format(Identifier(column), SQL(operator), _value(value, type_))
        for operator, value in ((">=", start), ("<", end))
        if value is not None
    ]
    if not sides:
        return None
    inside = SQL(" AND ").join(sides)
    return SQL("{} OR {} IS NULL").format(inside, Identifier(column)) if nulls else inside


def read_interval(type_: LiteralString, start: str, end: str, mark: str | None) -> Composed:
    """Compose the query for both ends as the server spells them.

    Also whether they are in order (`ordered`), and whether `mark` leaves no gap before them (`follows`).
    """
    first, last = _value(start, type_), _value(end, type_)
    follows = SQL("{} <= {}").format(first, _value(mark, type_)) if mark is not None else SQL("false")
    return SQL('SELECT ({0})::text AS "start", ({1})::text AS "end", {0} < {1} AS ordered, {2} AS follows').format(
        first, last, follows
    )


def read_value(type_: LiteralString, text: str) -> Composed:
    """Compose the query for the value as the server spells it."""
    return SQL("SELECT ({})::text").format(_value(text, type_))


def count_back(type_: LiteralString, mark: str, lookback: str, *, span: LiteralString, least: str | None) -> Composed:
    """Compose the query for `mark` less `lookback`, in the cursor's type.

    Also whether that is not beyond `mark` (`ordered`). `span` is the type of `lookback`, `least` the cursor type's
    least value.
    """
    value = _value(mark, type_)
    if span == "interval":
        start = SQL("({} - {})::{}").format(value, _value(lookback, span), SQL(type_))
    else:
        start = SQL("{}::numeric - {}").format(value, _value(lookback, span))
        if least is not None:
            # Counted in numeric, and cut at the least value: the cursor's own type would overflow. Rounded down,
            # because more may be read and not less.
            start = SQL("GREATEST(floor({}), {})").format(start, _value(least, "numeric"))
    return SQL('SELECT ({0})::text AS "start", {0} <= {1} AS ordered').format(start, value)


def read_greatest(staging: TableName, column: str, type_: LiteralString, mark: str | None) -> Composed:
    """Compose the query for the greatest finite cursor in staging.

    Also whether it lies `beyond` the mark, and whether it lies `behind` it.
    """
    has_end = SQL(_ENDLESS.get(type_, "true")).format(Identifier(column))
    greatest = SQL("max({}) FILTER (WHERE {})").format(Identifier(column), has_end)
    found = SQL("SELECT ({})::{} AS found FROM {}").format(greatest, SQL(type_), table(staging))
    value = None if mark is None else _value(mark, type_)
    beyond = SQL("found IS NOT NULL") if value is None else SQL("COALESCE(found > {}, false)").format(value)
    behind = SQL("false") if value is None else SQL("COALESCE(found < {}, true)").format(value)
    told = SQL("SELECT found::text AS value, {} AS beyond, {} AS behind FROM ({}) AS staged")
    return told.format(beyond, behind, found)


def _value(text: str, type_: LiteralString) -> Composed:
    return SQL("{}::{}").format(Literal(text), SQL(type_))


# What psql might interpret in a script: a command of its own, the end of a statement, a variable. A cast is not one.
_READ_BY_PSQL = re.compile(r"[\\;]|(?<!:)(?:::)*:(?=[A-Za-z_'\"{\x80-\U0010ffff])")

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_ESCAPED = re.compile(r"[\\;:!]")

# Our own watchdogs end a stage that hangs; the server's own timeouts are the second net.
_LIMITS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("idle_in_transaction_session_timeout", "0"),
    ("client_connection_check_interval", "2s"),
    # By default a server notices only after two hours that its client has vanished (power, network).
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
)
_OWN_ZONE: LiteralString = "TimeZone"
_BEFORE_EACH = Identifier("safecopy_before_each")


def is_plain(statement: Composable | str) -> bool:
    """Return whether psql can only send the text: no backslash, semicolon or variable is in it.

    Only plain SQL may stand in a script. psql gets any other with ``-c``, which it sends unread.
    """
    text = statement if isinstance(statement, str) else statement.as_string(None)
    return _READ_BY_PSQL.search(text) is None


def plain_names(statement: Composable) -> Composable:
    """Return the statement with Unicode escapes in names that psql could interpret."""
    if isinstance(statement, Composed):
        return Composed([plain_names(each) for each in statement])
    if not isinstance(statement, Identifier) or is_plain(statement):
        return statement
    parts = _QUOTED.findall(statement.as_string(None))
    return SQL(".").join(
        verbatim(f"U&{_ESCAPED.sub(lambda each: f'!{ord(each[0]):04x}', part)} UESCAPE '!'") for part in parts
    )


def export_copy(read: Composable, *, format: str) -> Composed:  # noqa: A002 -- SQL's own word
    """Return the export's COPY of the query `read`."""
    return SQL("COPY {} TO STDOUT (FORMAT {})").format(plain_names(read), SQL(_format(format)))


def export_script(
    read: Composable,
    *,
    format: str,  # noqa: A002 -- SQL's own word
    snapshot: str,
    output: str,
    nonce: str,
    seconds: float,
    lock_wait: float = Timeouts.lock_wait,
    schemas: Sequence[str] = (),
) -> str:
    """Return the export's script: COPY `read` under `snapshot` into the file `output`. Only for plain SQL."""
    return (
        export_opening(snapshot=snapshot, nonce=nonce, seconds=seconds, lock_wait=lock_wait, schemas=schemas)
        + _script([_write_to_file(export_copy(read, format=format), output)])
        + export_end(nonce, snapshot=snapshot, schemas=schemas)
    )


def export_output(output: str) -> str:
    r"""Return the command that sends the next statement's rows into the file `output`. For ``-c``.

    There is no statement yet, so ``\g`` sends nothing. Its output file holds for the next one.
    """
    return SQL("\\g {}").format(Literal(output)).as_string(None)


def export_end(nonce: str, *, snapshot: str, schemas: Sequence[str] = ()) -> str:
    """Return the checks after an export's COPY, in its own transaction."""
    return _script([*_export_checks(nonce, snapshot, schemas), SQL("COMMIT;"), _mark(nonce, "end")])


def export_opening(
    *,
    snapshot: str,
    nonce: str,
    seconds: float,
    lock_wait: float = Timeouts.lock_wait,
    schemas: Sequence[str] = (),
) -> str:
    """Return the opening script of an export psql.

    It may then export one table after the other, all under `snapshot`. Names are searched in `schemas` after pg_catalog.
    """
    begin = SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    seen = SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot))
    last = [read_alone(), SQL("SAVEPOINT {}").format(_BEFORE_EACH)]
    # The savepoint is where each export of a persistent psql starts from: see `export_next`.
    first = _begin(begin, seen, seconds=seconds, lock_wait=lock_wait, last=last, schemas=schemas)
    return _script([first, *_backend(nonce)])


def export_next(read: Composable, *, format: str, output: str, nonce: str, snapshot: str) -> str:  # noqa: A002 -- SQL's own word
    """Return the next export of a persistent psql: COPY `read` into `output`, and its checks.

    Only for plain SQL.
    """
    copy = _write_to_file(export_copy(read, format=format), output)
    # Released after the source proof, which covers all that is locked: the session then idles, and no other session
    # waits for a lock of it.
    anew = SQL("ROLLBACK TO SAVEPOINT {};").format(_BEFORE_EACH)
    # Pinned again, because the table before may have run a function that changed settings.
    return _script([_join(statements.pins()), copy, *_export_checks(nonce, snapshot), anew])


def load_opening(nonce: str) -> str:
    """Return the opening script of an import psql that loads one table after the other."""
    return _script(_backend(nonce))


def load_next(
    staging: TableName,
    columns: Iterable[tuple[str, str]],
    *,
    format: str,  # noqa: A002 -- SQL's own word
    data: str,
    nonce: str,
    seconds: float,
    lock_wait: float = Timeouts.lock_wait,
    hidden_from: Iterable[str] = (),
) -> str:
    """Return the script that creates a staging table and loads it from the file `data`.

    Its transaction is left open, and the rows' count is reported.
    """
    return _script(
        [
            _begin(
                SQL("BEGIN READ WRITE"),
                # A commit that is lost with the server's memory loses staging alone: what is published has a commit of
                # its own, which no earlier one may be missing from.
                SQL("SET LOCAL synchronous_commit TO off"),
                seconds=seconds,
                lock_wait=lock_wait,
            ),
            _join(
                [plain_names(create_staging(staging, columns)), *map(plain_names, hide_staging(staging, hidden_from))]
            ),
            # On one line, as `\copy` wants it. Names of staging tables hold nothing that psql could act upon. Columns
            # are not named, since the table has just these.
            SQL("\\copy {} FROM {} (FORMAT {})").format(table(staging), Literal(data), SQL(_format(format))),
            *_copy_checks(nonce),
        ]
    )


def load_prologue(*, nonce: str, seconds: float, lock_wait: float = Timeouts.lock_wait) -> str:
    """Return the script that the import psql runs before its COPY."""
    return _script([_begin(SQL("BEGIN READ WRITE"), seconds=seconds, lock_wait=lock_wait), *_backend(nonce)])


def load_frozen(staging: TableName) -> str:
    """Return the statement that lets the COPY load frozen rows. For ``-c``."""
    # COPY freezes rows only in the transaction that emptied the table. Defaults may ask for the date: it is that of the
    # role's own time zone.
    return SQL("TRUNCATE {}; SET LOCAL {} TO DEFAULT").format(table(staging), Identifier(_OWN_ZONE)).as_string(None)


def load_copy(staging: TableName, columns: Sequence[str], *, format: str, freeze: bool = False) -> str:  # noqa: A002 -- SQL's own word
    """Return the import's COPY for ``-c``.

    Only with ``-c`` does COPY read psql's own stdin.
    """
    into = SQL(" ({})").format(list_columns(columns)) if columns else SQL("")
    frozen = SQL(", FREEZE" if freeze else "")
    copy = SQL("COPY {}{} FROM STDIN (FORMAT {}{})").format(table(staging), into, SQL(_format(format)), frozen)
    return copy.as_string(None)


def load_end(nonce: str, *, frozen: bool = False) -> str:
    """Return the checks after the import's COPY, before its COMMIT."""
    return _script(_copy_checks(nonce, but=(_OWN_ZONE,) if frozen else ()))


def load_commit(nonce: str) -> str:
    """Return the text for the import psql's last pipe.

    It is written once everything is proven, and never before.
    """
    return _script([SQL("COMMIT;"), _mark(nonce, "committed")])


def _begin(
    *first: Composable,
    seconds: float,
    lock_wait: float,
    last: Sequence[Composable] = (),
    schemas: Sequence[str] = (),
) -> Composed:
    """Compose BEGIN, `first`, the pinned settings, the limits and `last` as one message."""
    # All in one message: between two, the role's own idle timeout could end the session.
    # Two minutes later than our own timeout: the server's must never be the one that cuts a healthy stage.
    limits = (
        *_LIMITS,
        ("lock_timeout", f"{max(1, round(lock_wait * 1000))}ms"),
        ("statement_timeout", f"{round(seconds) + 120}s"),
    )
    # Known from 17 on; where it is not, there is no row.
    unlimited = SQL("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'")
    limited = (set_local(setting, value) for setting, value in limits)
    return _join([*first, *statements.pins(schemas), *limited, unlimited, *last])


def _join(several: Iterable[Composable]) -> Composed:
    """Join statements that psql sends in one message."""
    return SQL("{};").format(SQL(" \\; ").join(several))


def _write_to_file(copy: Composable, output: str) -> Composed:
    return SQL("{} \\g {}").format(copy, Literal(output))


def _copy_checks(nonce: str, *, but: tuple[str, ...] = ()) -> list[Composable]:
    """Return the statements that report the row count and the changed settings, except `but`."""
    return [
        _mark(nonce, "rows :ROW_COUNT"),
        SQL("{} \\gset").format(statements.select_changed(but=but)),
        _mark(nonce, "changed :safecopy_changed"),
    ]


def _export_checks(nonce: str, snapshot: str, schemas: Sequence[str] = ()) -> list[Composable]:
    """Return the checks of any COPY, and the source proof."""
    changed = statements.select_changed(schemas)
    asked = SQL("SELECT * FROM ({}) AS c, ({}) AS p \\gset").format(changed, proof(snapshot))
    if schemas:  # the proof compares names that carry their schema
        own = SQL("SELECT * FROM ({}) AS p \\gset").format(proof(snapshot))
        asked = SQL("{} \\gset\n{};\n{}").format(changed, set_local("search_path", "pg_catalog"), own)
    marks = ("changed :safecopy_changed", "replaced :safecopy_replaced", "keeper :safecopy_keeper")
    return [_mark(nonce, "rows :ROW_COUNT"), asked, *(_mark(nonce, mark) for mark in marks)]


def _backend(nonce: str) -> list[Composable]:
    return [
        SQL("SELECT pg_catalog.pg_backend_pid() AS safecopy_backend \\gset"),
        _mark(nonce, "backend :safecopy_backend"),
    ]


def _mark(nonce: str, text: LiteralString) -> Composable:
    return verbatim(f"\\warn safecopy {nonce} {text}")


def _script(lines: Iterable[Composable]) -> str:
    return "".join(line.as_string(None) + "\n" for line in lines)


def _format(format: str) -> LiteralString:  # noqa: A002 -- SQL's own word
    return "binary" if format == "binary" else "text"

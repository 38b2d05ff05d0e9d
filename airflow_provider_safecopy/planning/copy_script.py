r"""The scripts of psql for export and import, and the conditions of a read range.

A script ends each line of ours with a marked `\warn`: the server's own row count and backend pid come back
that way (ROW_COUNT is right after `\g` to a file, and zero after COPY to psql's stdout).
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
        "SELECT pg_catalog.encode(pg_catalog.convert_to(r.safecopy_replaced, 'UTF8'), 'hex') AS safecopy_replaced, "
        "EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE k.locktype = 'virtualxid' AND k.granted "
        "AND k.mode = 'ExclusiveLock' AND k.virtualtransaction = {}) AS safecopy_keeper FROM ({}) AS r"
    )
    return query.format(Literal(_parse_transaction(snapshot)), verbatim(sql.load("snapshot")["replaced"]))


def read_alone() -> Composable:
    """Have the transaction read without parallel workers where a function may read tables that the proof cannot see."""
    return verbatim(sql.load("snapshot")["read_alone"])


def _parse_transaction(snapshot: str) -> str:
    """Return the transaction that exported `snapshot`, as pg_locks spells it: it is in the snapshot's name."""
    backend, transaction, _ = snapshot.split("-")
    return f"{int(backend, 16)}/{int(transaction, 16)}"


# What tells values apart that are greater than all others, and say nothing of how far one has come.
_ENDLESS: dict[str, LiteralString] = {
    "numeric": "{} NOT IN ('NaN', 'Infinity', '-Infinity')",
    "date": "isfinite({})",
    "timestamp without time zone": "isfinite({})",
    "timestamp with time zone": "isfinite({})",
}


def match_range(
    column: str, type_: LiteralString, *, start: str | None, end: str | None, nulls: bool
) -> Composed | None:
    """Compose the condition of rows from `start` up to but not including `end`; with `nulls` also those whose cursor is NULL."""
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
    """Both ends as the server spells them, whether they are in order, and whether `mark` leaves no gap before them."""
    first, last = _value(start, type_), _value(end, type_)
    follows = SQL("{} <= {}").format(first, _value(mark, type_)) if mark is not None else SQL("false")
    return SQL('SELECT ({0})::text AS "start", ({1})::text AS "end", {0} < {1} AS ordered, {2} AS follows').format(
        first, last, follows
    )


def read_value(type_: LiteralString, text: str) -> Composed:
    """The value as the server spells it."""
    return SQL("SELECT ({})::text").format(_value(text, type_))


def count_back(type_: LiteralString, mark: str, lookback: str, *, span: LiteralString, least: str | None) -> Composed:
    """`mark` less `lookback`, in the cursor's type, and whether that is not beyond it.

    `span` is the type of `lookback`, `least` the cursor type's least value.
    """
    value = _value(mark, type_)
    if span == "interval":
        start = SQL("({} - {})::{}").format(value, _value(lookback, span), SQL(type_))
    else:
        start = SQL("{}::numeric - {}").format(value, _value(lookback, span))
        if least is not None:
            start = SQL("GREATEST(floor({}), {})").format(start, _value(least, "numeric"))
    return SQL('SELECT ({0})::text AS "start", {0} <= {1} AS ordered').format(start, value)


def read_greatest(staging: TableName, column: str, type_: LiteralString, mark: str | None) -> Composed:
    """The greatest cursor in staging that has an end, whether it lies `beyond` the mark, and whether it is `behind` it."""
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

# Whether a session may hang. Our own watchdogs end a stage; the server's own timeouts are the second net.
_LIMITS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("idle_in_transaction_session_timeout", "0"),
    ("client_connection_check_interval", "2s"),
    # Of a client that has vanished without a word the server would hear after two hours.
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
) -> str:
    """Return the export's script: COPY `read` under `snapshot` into the file `output`. Only for plain SQL."""
    return (
        export_opening(snapshot=snapshot, nonce=nonce, seconds=seconds, lock_wait=lock_wait)
        + _script([_write_to_file(export_copy(read, format=format), output)])
        + export_end(nonce, snapshot=snapshot)
    )


def export_output(output: str) -> str:
    r"""Return the command that sends the next statement's rows into the file `output`. For ``-c``.

    There is no statement yet, so ``\g`` sends nothing. Its output file holds for the next one.
    """
    return SQL("\\g {}").format(Literal(output)).as_string(None)


def export_end(nonce: str, *, snapshot: str) -> str:
    """Return the checks after an export's COPY, in its own transaction."""
    return _script([*_export_checks(nonce, snapshot), SQL("COMMIT;"), _mark(nonce, "end")])


def export_opening(*, snapshot: str, nonce: str, seconds: float, lock_wait: float = Timeouts.lock_wait) -> str:
    """Return the opening of the script of an export psql that exports one table after the other, all under `snapshot`."""
    begin = SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    seen = SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot))
    last = [read_alone(), SQL("SAVEPOINT {}").format(_BEFORE_EACH)]
    first = _begin(begin, seen, seconds=seconds, lock_wait=lock_wait, last=last)
    return _script([first, *_backend(nonce)])


def export_next(read: Composable, *, format: str, output: str, nonce: str, snapshot: str) -> str:  # noqa: A002 -- SQL's own word
    """Return the next export of a shuttle: COPY `read` into `output`, and its checks. Only for plain SQL.

    Settings are pinned again, because the table before may have run a function that changed them. Its locks are released
    after the source proof, which covers all that is locked: this session then idles, and others wait for no lock of it.
    """
    copy = _write_to_file(export_copy(read, format=format), output)
    anew = SQL("ROLLBACK TO SAVEPOINT {};").format(_BEFORE_EACH)
    return _script([_join(statements.pins()), copy, *_export_checks(nonce, snapshot), anew])


def load_opening(nonce: str) -> str:
    """Return the opening of the script of an import psql that loads one table after the other."""
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
    r"""A staging table and its rows, from the file `data`, in a transaction that is left open; and the rows' count.

    All on one line, as ``\copy`` wants it: names of staging tables hold nothing that psql could act upon, and columns are not named, since
    the table has just these. A commit that is lost with the server's memory takes no more with it than staging: what is
    published has a commit of its own, which no earlier one may be missing from.
    """
    return _script(
        [
            _begin(
                SQL("BEGIN READ WRITE"),
                SQL("SET LOCAL synchronous_commit TO off"),
                seconds=seconds,
                lock_wait=lock_wait,
            ),
            _join(
                [plain_names(create_staging(staging, columns)), *map(plain_names, hide_staging(staging, hidden_from))]
            ),
            SQL("\\copy {} FROM {} (FORMAT {})").format(table(staging), Literal(data), SQL(_format(format))),
            *_copy_checks(nonce),
        ]
    )


def load_prologue(*, nonce: str, seconds: float, lock_wait: float = Timeouts.lock_wait) -> str:
    """Return what the import psql runs before its COPY."""
    return _script([_begin(SQL("BEGIN READ WRITE"), seconds=seconds, lock_wait=lock_wait), *_backend(nonce)])


def load_frozen(staging: TableName) -> str:
    """Empty the table in the COPY's own transaction, so that rows load frozen. For ``-c``.

    Its defaults may ask for the day where the role is.
    """
    return SQL("TRUNCATE {}; SET LOCAL {} TO DEFAULT").format(table(staging), Identifier(_OWN_ZONE)).as_string(None)


def load_copy(staging: TableName, columns: Sequence[str], *, format: str, freeze: bool = False) -> str:  # noqa: A002 -- SQL's own word
    """The import's COPY, given to psql by ``-c``: only so does COPY read psql's own stdin."""
    into = SQL(" ({})").format(list_columns(columns)) if columns else SQL("")
    frozen = SQL(", FREEZE" if freeze else "")
    copy = SQL("COPY {}{} FROM STDIN (FORMAT {}{})").format(table(staging), into, SQL(_format(format)), frozen)
    return copy.as_string(None)


def load_end(nonce: str, *, frozen: bool = False) -> str:
    """Return the checks after the import's COPY, before its COMMIT."""
    return _script(_copy_checks(nonce, but=(_OWN_ZONE,) if frozen else ()))


def load_commit(nonce: str) -> str:
    """Return the text for the import psql's last pipe, written once everything is proven, and never before."""
    return _script([SQL("COMMIT;"), _mark(nonce, "committed")])


def _begin(*first: Composable, seconds: float, lock_wait: float, last: Sequence[Composable] = ()) -> Composed:
    """Begin and pin in one message: a role's own idle timeout finds no gap to strike in."""
    # Two minutes later than our own timeout: it must never be the one that cuts a healthy stage.
    limits = (
        *_LIMITS,
        ("lock_timeout", f"{max(1, round(lock_wait * 1000))}ms"),
        ("statement_timeout", f"{round(seconds) + 120}s"),
    )
    # Known from 17 on; where it is not, there is no row.
    unlimited = SQL("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'")
    limited = (set_local(setting, value) for setting, value in limits)
    return _join([*first, *statements.pins(), *limited, unlimited, *last])


def _join(several: Iterable[Composable]) -> Composed:
    """Join statements that psql sends in one message."""
    return SQL("{};").format(SQL(" \\; ").join(several))


def _write_to_file(copy: Composable, output: str) -> Composed:
    return SQL("{} \\g {}").format(copy, Literal(output))


def _copy_checks(nonce: str, *, but: tuple[str, ...] = ()) -> list[Composable]:
    """Return statements that report the row count, and which settings have changed, except `but`."""
    return [
        _mark(nonce, "rows :ROW_COUNT"),
        SQL("{} \\gset").format(statements.select_changed(but=but)),
        _mark(nonce, "changed :safecopy_changed"),
    ]


def _export_checks(nonce: str, snapshot: str) -> list[Composable]:
    """Return the checks of any COPY, and the source proof."""
    asked = SQL("SELECT * FROM ({}) AS c, ({}) AS p \\gset").format(statements.select_changed(), proof(snapshot))
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

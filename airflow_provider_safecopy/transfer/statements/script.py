r"""The scripts psql runs: a stage's own transaction, its settings, and the marks its counts come back by.

A script ends each line of ours with a marked `\warn`: the server's own row count and backend pid come back
that way (ROW_COUNT is right after `\g` to a file, and zero after COPY to psql's stdout).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import LiteralString

from psycopg.sql import SQL, Composable, Composed, Literal

from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.statements.rows import create_staging, listed, set_local, table, verbatim
from airflow_provider_safecopy.transfer.timeouts import Timeouts

# Variables psql sets by itself and that cannot be unset for good: `:ECHO` in a query would be replaced.
_PSQL_VARIABLES = (
    "AUTOCOMMIT|COMP_KEYWORD_CASE|DBNAME|ECHO|ECHO_HIDDEN|ENCODING|ERROR|FETCH_COUNT|HIDE_TABLEAM|"
    "HIDE_TOAST_COMPRESSION|HISTCONTROL|HISTFILE|HISTSIZE|HOST|IGNOREEOF|LASTOID|LAST_ERROR_MESSAGE|"
    "LAST_ERROR_SQLSTATE|ON_ERROR_ROLLBACK|ON_ERROR_STOP|PIPELINE_COMMAND_COUNT|PIPELINE_RESULT_COUNT|"
    "PIPELINE_SYNC_COUNT|PORT|PROMPT1|PROMPT2|PROMPT3|QUIET|ROW_COUNT|SERVER_VERSION_NAME|SERVER_VERSION_NUM|"
    "SERVICE|SHELL_ERROR|SHELL_EXIT_CODE|SHOW_ALL_RESULTS|SHOW_CONTEXT|SINGLELINE|SINGLESTEP|SQLSTATE|USER|"
    "VERBOSITY|VERSION|VERSION_NAME|VERSION_NUM|WATCH_INTERVAL"
)
_REPLACED_BY_PSQL = re.compile(rf"(?<!:):['\"]?(?:{_PSQL_VARIABLES}|safecopy_backend)\b|:\{{\?")

# The settings that change what a text means, or whether a session may hang, in one transaction so that a
# pooler keeps no trace of them. Our own watchdogs end a stage; the server's own timeouts are the second net.
_PINS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("search_path", "pg_catalog"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("row_security", "off"),
    ("standard_conforming_strings", "on"),
    ("idle_in_transaction_session_timeout", "0"),
    ("client_connection_check_interval", "2s"),
    # Of a client that has vanished without a word the server would hear after two hours.
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
)


def psql_would_replace(text: str) -> str | None:
    """The first place where psql would put a variable of its own into somebody's SQL, or None."""
    match = _REPLACED_BY_PSQL.search(text)
    return match[0] if match else None


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
    """What the export psql runs: what is to be `read`, under `snapshot`, into the file `output`."""
    lines = [
        _begin(
            SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)),
            seconds=seconds,
            lock_wait=lock_wait,
        ),
        *_backend(nonce),
        SQL("COPY {} TO STDOUT (FORMAT {}) \\g {}").format(read, SQL(_format(format)), Literal(output)),
        _mark(nonce, "rows :ROW_COUNT"),
        SQL("COMMIT;"),
        _mark(nonce, "end"),
    ]
    return _script(lines)


def export_opening(*, snapshot: str, nonce: str, seconds: float, lock_wait: float = Timeouts.lock_wait) -> str:
    """What an export psql runs first that is to export one table after the other, all under `snapshot`."""
    begin = SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    seen = SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot))
    return _script([_begin(begin, seen, seconds=seconds, lock_wait=lock_wait), *_backend(nonce)])


def export_next(read: Composable, *, format: str, output: str, nonce: str) -> str:  # noqa: A002 -- SQL's own word
    """What is to be `read`, into the file `output`, and the server's own count of its rows."""
    copy = SQL("COPY {} TO STDOUT (FORMAT {}) \\g {}")
    return _script([copy.format(read, SQL(_format(format)), Literal(output)), _mark(nonce, "rows :ROW_COUNT")])


def load_opening(nonce: str) -> str:
    """What an import psql says first that is to load one table after the other."""
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
) -> str:
    r"""A staging table and its rows, from the file `data`, in a transaction that is left open; and the rows' count.

    All on one line, as ``\copy`` wants it: names of staging tables hold no line break, and columns are not named, since
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
            SQL("{};").format(create_staging(staging, columns)),
            SQL("\\copy {} FROM {} (FORMAT {})").format(table(staging), Literal(data), SQL(_format(format))),
            _mark(nonce, "rows :ROW_COUNT"),
        ]
    )


def load_prologue(
    *, nonce: str, seconds: float, lock_wait: float = Timeouts.lock_wait, frozen: TableName | None = None
) -> str:
    """What the import psql runs before its COPY. `frozen` is the table whose rows are to be loaded frozen.

    They can be only into a table emptied in the same transaction; its defaults may ask for the day where the role is.
    """
    first = [SQL("TRUNCATE {};").format(table(frozen)), SQL('SET LOCAL "TimeZone" TO DEFAULT;')] if frozen else []
    return _script([_begin(SQL("BEGIN READ WRITE"), seconds=seconds, lock_wait=lock_wait), *_backend(nonce), *first])


def load_copy(staging: TableName, columns: Sequence[str], *, format: str, freeze: bool = False) -> str:  # noqa: A002 -- SQL's own word
    """The import's COPY, given to psql by ``-c``: only so does COPY read psql's own stdin."""
    into = SQL(" ({})").format(listed(columns)) if columns else SQL("")
    frozen = SQL(", FREEZE" if freeze else "")
    copy = SQL("COPY {}{} FROM STDIN (FORMAT {}{})").format(table(staging), into, SQL(_format(format)), frozen)
    return copy.as_string(None)


def load_rows(nonce: str) -> str:
    """The import's own row count, given to psql by ``-c``."""
    return _mark(nonce, "rows :ROW_COUNT").as_string(None)


def load_commit(nonce: str) -> str:
    """What is written into the import psql's last pipe once everything is proven, and never before."""
    return _script([SQL("COMMIT;"), _mark(nonce, "committed")])


def _begin(*first: Composable, seconds: float, lock_wait: float) -> Composed:
    """Begin and pin in one message: a role's own idle timeout finds no gap to strike in."""
    # Two minutes later than our own timeout: it must never be the one that cuts a healthy stage.
    pins = (
        *_PINS,
        ("lock_timeout", f"{max(1, round(lock_wait * 1000))}ms"),
        ("statement_timeout", f"{round(seconds) + 120}s"),
    )
    # Known from 17 on; where it is not, there is no row.
    unlimited = SQL("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'")
    together = SQL(" \\; ").join([*first, *(set_local(setting, value) for setting, value in pins), unlimited])
    return SQL("{};").format(together)


def _backend(nonce: str) -> list[Composable]:
    return [SQL("SELECT pg_backend_pid() AS safecopy_backend \\gset"), _mark(nonce, "backend :safecopy_backend")]


def _mark(nonce: str, text: LiteralString) -> Composable:
    return verbatim(f"\\warn safecopy {nonce} {text}")


def _script(lines: Iterable[Composable]) -> str:
    return "".join(line.as_string(None) + "\n" for line in lines)


def _format(format: str) -> LiteralString:  # noqa: A002 -- SQL's own word
    return "binary" if format == "binary" else "text"

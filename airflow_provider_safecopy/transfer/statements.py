r"""Every statement that needs identifiers, composed with `psycopg.sql`. Nothing here runs anything.

A script for psql ends each line of ours with a marked `\warn`: the server's own row count and backend
pid come back that way (ROW_COUNT is right after `\g` to a file, and zero after COPY to psql's stdout).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from airflow_provider_safecopy.transfer.name import TableName

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
    ("lock_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "0"),
    ("client_connection_check_interval", "2s"),
)


def psql_would_replace(text: str) -> str | None:
    """The first place where psql would put a variable of its own into somebody's SQL, or None."""
    match = _REPLACED_BY_PSQL.search(text)
    return match[0] if match else None


def table(name: TableName) -> Composable:
    """A table's name, quoted."""
    return Identifier(name.schema, name.name) if name.schema is not None else Identifier(name.name)


def select(columns: Sequence[str], source: TableName | str, where: str | None) -> Composed:
    """The rows to export: `columns` in order, from a table or a query, filtered by `where`."""
    filtered = SQL("\nWHERE (\n{}\n)").format(_verbatim(where)) if where is not None else SQL("")
    return SQL("SELECT {} FROM {}{}").format(_list(columns), _from(source), filtered)


def no_rows(source_sql: str) -> Composed:
    """A query that returns none of `source_sql`'s rows, but their shape."""
    return SQL("SELECT * FROM {} LIMIT 0").format(_from(source_sql))


def explain(query: Composable) -> Composed:
    """What the planner expects of `query`, as JSON."""
    return SQL("EXPLAIN (FORMAT JSON) {}").format(query)


def any_row(query: Composable) -> Composed:
    """Whether `query` has a row at all."""
    return SQL("SELECT EXISTS (SELECT FROM (\n{}\n) AS safecopy_source)").format(query)


def content_hash(columns: Sequence[str], rows: Composable) -> Composed:
    """Count and order-independent hash of rows, equal for equal content whatever the servers' encodings.

    The first 64 bits of each row's md5 in UTF-8, summed: duplicates count, the order does not.
    """
    row = SQL("ROW({})").format(_list(columns))
    return SQL(
        "SELECT count(*) AS rows, COALESCE(sum(('x' || substr(md5(convert_to({}::text, 'UTF8')), 1, 16))"
        "::bit(64)::bigint::numeric), 0)::text AS hash FROM (\n{}\n) AS safecopy_rows"
    ).format(row, rows)


def export_script(query: Composable, *, format: str, snapshot: str, output: str, nonce: str, seconds: float) -> str:  # noqa: A002 -- SQL's own word
    """What the export psql runs: the rows of `query`, under `snapshot`, into the file `output`."""
    lines = [
        _begin(
            SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)),
            seconds=seconds,
        ),
        *_backend(nonce),
        SQL("COPY (\n{}\n) TO STDOUT (FORMAT {}) \\g {}").format(query, SQL(_format(format)), Literal(output)),
        _mark(nonce, "rows :ROW_COUNT"),
        SQL("COMMIT;"),
        _mark(nonce, "end"),
    ]
    return _script(lines)


def load_prologue(*, nonce: str, seconds: float) -> str:
    """What the import psql runs before its COPY."""
    return _script([_begin(SQL("BEGIN READ WRITE"), seconds=seconds), *_backend(nonce)])


def load_copy(staging: TableName, columns: Sequence[str], *, format: str) -> str:  # noqa: A002 -- SQL's own word
    """The import's COPY, given to psql by ``-c``: only so does COPY read psql's own stdin."""
    listed = SQL(" ({})").format(_list(columns)) if columns else SQL("")
    copy = SQL("COPY {}{} FROM STDIN (FORMAT {})").format(table(staging), listed, SQL(_format(format)))
    return copy.as_string(None)


def load_rows(nonce: str) -> str:
    """The import's own row count, given to psql by ``-c``."""
    return _mark(nonce, "rows :ROW_COUNT").as_string(None)


def load_commit(nonce: str) -> str:
    """What is written into the import psql's last pipe once everything is proven, and never before."""
    return _script([SQL("COMMIT;"), _mark(nonce, "committed")])


def create_staging(staging: TableName, columns: Iterable[tuple[str, str]]) -> Composed:
    """An unlogged table of the same columns, never replicated. Types are spelled by the server itself."""
    listed = SQL(", ").join(SQL("{} {}").format(Identifier(name), _verbatim(type_)) for name, type_ in columns)
    # Vacuumed by nobody: it lives for one run, and autovacuum would only take locks on it.
    return SQL("CREATE UNLOGGED TABLE {} ({}) WITH (autovacuum_enabled = off)").format(table(staging), listed)


def drop_staging(staging: TableName) -> Composed:
    """Drop a staging table; nothing can depend on it."""
    return SQL("DROP TABLE IF EXISTS {}").format(table(staging))


def count(of: TableName) -> Composed:
    """How many rows a table holds, with its partitions."""
    return SQL("SELECT count(*) FROM {}").format(table(of))


def lock(target: TableName, mode: LiteralString) -> Composed:
    """Lock the target; inheritance children do not exist (refused), partitions are locked with it."""
    return SQL("LOCK TABLE {} IN {} MODE").format(table(target), SQL(mode))


def delete(target: TableName) -> Composed:
    """Delete every row, visible to older snapshots as long as they live."""
    return SQL("DELETE FROM {}").format(table(target))


def truncate(target: TableName) -> Composed:
    """Empty the table at once. Older snapshots will see it empty: documented, and only on request."""
    return SQL("TRUNCATE {}").format(table(target))


def insert(target: TableName, staging: TableName, columns: Sequence[str], *, identity: bool) -> Composed:
    """Move staging's rows into the target. Identity columns keep the source's values."""
    overriding = SQL(" OVERRIDING SYSTEM VALUE") if identity else SQL("")
    if not columns:
        # A table without columns: INSERT must name something, and DEFAULT VALUES makes one row only.
        return SQL("INSERT INTO {} SELECT FROM {}").format(table(target), table(staging))
    return SQL("INSERT INTO {} ({}){} SELECT {} FROM {}").format(
        table(target), _list(columns), overriding, _list(columns), table(staging)
    )


def set_local(setting: LiteralString, value: str) -> Composed:
    """A setting for the rest of the transaction."""
    return SQL("SET LOCAL {} = {}").format(SQL(setting), Literal(value))


def set_timeout(setting: LiteralString, seconds: float) -> Composed:
    """A timeout for the rest of the transaction; never rounded down to 0, which would mean none."""
    return set_local(setting, f"{max(1, round(seconds * 1000))}ms")


def _begin(*first: Composable, seconds: float) -> Composed:
    """Begin and pin in one message: a role's own idle timeout finds no gap to strike in."""
    # Two minutes later than our own timeout: it must never be the one that cuts a healthy stage.
    pins = (*_PINS, ("statement_timeout", f"{round(seconds) + 120}s"))
    # Known from 17 on; where it is not, there is no row.
    unlimited = SQL("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'")
    together = SQL(" \\; ").join([*first, *(set_local(setting, value) for setting, value in pins), unlimited])
    return SQL("{};").format(together)


def _backend(nonce: str) -> list[Composable]:
    return [SQL("SELECT pg_backend_pid() AS safecopy_backend \\gset"), _mark(nonce, "backend :safecopy_backend")]


def _mark(nonce: str, text: LiteralString) -> Composable:
    return _verbatim(f"\\warn safecopy {nonce} {text}")


def _script(lines: Iterable[Composable]) -> str:
    return "".join(line.as_string(None) + "\n" for line in lines)


def _format(format: str) -> LiteralString:  # noqa: A002 -- SQL's own word
    return "binary" if format == "binary" else "text"


def _from(source: TableName | str) -> Composable:
    if isinstance(source, TableName):
        return table(source)
    return SQL("(\n{}\n) AS safecopy_source").format(_verbatim(source))


def _list(columns: Sequence[str]) -> Composed:
    return SQL(", ").join(map(Identifier, columns))


def _verbatim(text: str) -> SQL:
    """Somebody's own SQL, a type spelled by the server, or a mark of ours, as it stands."""
    return SQL(text)

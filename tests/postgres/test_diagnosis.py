"""Errors without rows: what a server says of a row is left out unless it was asked for, wherever it would be seen."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.postgres.diagnosis import describe_output
from tests.support.customers import SHAPE, TABLE, spec
from tests.support.database import Database

SECRET = "880202-2345678"
COLUMNS = '"번호" bigint, "이름" varchar(40), "금액" numeric(12,2), "가입" timestamptz'


@pytest.fixture
def ends(source: Database, target: Database) -> tuple[Database, Database]:
    """A source of two rows, one with a value that must not appear in a log."""
    source.execute(f'CREATE SCHEMA "영업"; CREATE TABLE {TABLE} ({COLUMNS})')
    source.execute(f"INSERT INTO {TABLE} VALUES (1, '고객', 1, now()), (2, '{SECRET}', 2, now())")
    target.execute(SHAPE)
    return source, target


def everything(error: BaseException) -> str:
    """All that a log, a traceback and ``--json`` would show of it."""
    data = error.as_dict() if isinstance(error, SafeCopyError) else {}
    return "".join(traceback.format_exception(error)) + str(data) + str(error)


def failed(ends: tuple[Database, Database], **options: Any) -> SafeCopyError:
    source, target = ends
    with pytest.raises(SafeCopyError) as caught:
        pipeline.copy(spec(**options), source.endpoint, target.endpoint)
    return caught.value


VIOLATIONS = {
    "a check": (f"ALTER TABLE {TABLE} ADD CONSTRAINT 규칙 CHECK (\"이름\" NOT LIKE '88%')", "규칙"),
    "a unique key": (f'CREATE UNIQUE INDEX 하나 ON {TABLE} ((left("이름", 0)))', "하나"),
    "a trigger's context": (
        (
            "CREATE FUNCTION 영업.거절() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM NEW.\"이름\"::int; RETURN NEW; END'; "
            f'CREATE TRIGGER 거절 BEFORE INSERT ON {TABLE} FOR EACH ROW WHEN (NEW."번호" = 2) EXECUTE FUNCTION 영업.거절()'
        ),
        "integer",
    ),
}


@pytest.mark.parametrize("publish", ["delete_insert", "delta", "swap"])
@pytest.mark.parametrize("violation", VIOLATIONS)
def test_what_a_publish_violates_is_told_without_the_row(
    ends: tuple[Database, Database], violation: str, publish: str
) -> None:
    """Rows of a violated constraint reach neither message, data nor traceback; the constraint's name does."""
    statement, name = VIOLATIONS[violation]
    if violation == "a trigger's context" and publish == "swap":
        publish = "truncate_insert"  # a swap fires no trigger
    ends[1].execute(statement)
    error = failed(ends, publish=publish)
    assert SECRET not in everything(error)
    assert name in error.message
    if violation != "a unique key" and (violation, publish) != ("a check", "swap"):  # there is nothing to show
        assert SECRET in everything(failed(ends, publish=publish, show_rows=True))


def test_what_an_import_cannot_read_is_told_by_line_and_column(ends: tuple[Database, Database]) -> None:
    """A value the target cannot take is quoted by the server twice, in message and context: the line is what is left."""
    check = ("", "CHECK (VALUE NOT LIKE '88%' )")
    for end, rule in zip(ends, check, strict=True):
        end.execute(f'CREATE DOMAIN 영업.이름 AS varchar(40) {rule}; ALTER TABLE {TABLE} ALTER "이름" TYPE 영업.이름')
    error = failed(ends)
    assert SECRET not in everything(error)
    assert "line 2" in error.message
    assert SECRET in everything(failed(ends, show_rows=True))


def test_a_query_that_fails_on_a_row_is_told_without_it(ends: tuple[Database, Database]) -> None:
    query = f'SELECT "번호", "이름", "이름"::int::numeric(12,2) AS "금액", "가입" FROM {TABLE} WHERE "번호" = 2'
    error = failed(ends, source_table=None, source_sql=query)
    assert SECRET not in everything(error)
    assert "integer" in str(error)
    shown = failed(ends, source_table=None, source_sql=query, show_rows=True)
    assert SECRET in everything(shown)


def test_keys_that_repeat_are_counted_and_not_shown(ends: tuple[Database, Database]) -> None:
    source, _ = ends
    source.execute(f"INSERT INTO {TABLE} VALUES (20202, '가', 1, now()), (20202, '나', 1, now())")
    assert "20202" not in everything(failed(ends, write_mode="upsert"))
    assert "20202" in everything(failed(ends, write_mode="upsert", show_rows=True))


def test_of_a_batch_nothing_is_shown_either(ends: tuple[Database, Database]) -> None:
    source, target = ends
    target.execute(VIOLATIONS["a check"][0])
    done = pipeline.copy_tables([spec()], source.endpoint, target.endpoint)
    assert [SECRET in everything(each.error) for each in done.failed] == [False]


@pytest.mark.parametrize(
    "said, kept",
    [
        (
            (
                'psql:<stdin>:3: ERROR:  22P02: invalid input syntax for type integer: "비밀"\n'
                'CONTEXT:  COPY 고객, line 3, column 나이: "비밀"\nLOCATION:  pg_strtoint32_safe, numutils.c:617\n'
            ),
            "psql:<stdin>:3: ERROR:  22P02: invalid input syntax for type integer: … (line 3, column 나이)",
        ),
        (
            (
                "psql:<stdin>:3: FEHLER:  22P02: ungültige Eingabesyntax für Typ integer: »비\n밀«\n"
                "CONTEXT:  COPY 고객, Zeile 3, Spalte 나이: »비밀«\n"
            ),
            "psql:<stdin>:3: FEHLER:  22P02: ungültige Eingabesyntax für Typ integer: … (line 3, column 나이)",
        ),
        (
            (
                'ERROR:  23514: new row for relation "t" violates check constraint "규칙"\n'
                'DETAIL:  Failing row contains (비\nCONTEXT:  밀, 1).\nCONTEXT:  COPY t, line 1: "비밀"\n'
            ),
            'ERROR:  23514: new row for relation "t" violates check constraint "규칙" (line 1)',
        ),
        ("psql:<stdin>:1: NOTICE:  00000: 비밀\nLOCATION:  exec_stmt_raise, pl_exec.c:3923\n", ""),
        (
            "ERROR:  2BP01: cannot drop\nHINT:  Use DROP ... CASCADE to drop the dependent objects too.\n",
            "ERROR:  2BP01: cannot drop",
        ),
        ("psql: error: connection to server failed", "psql: error: connection to server failed"),
        (
            'ERROR:  42883: function f() does not exist\nCONTEXT:  COPY t, line 7: "비밀"\n',
            "ERROR:  42883: function f() does not exist\nCONTEXT:  line 7",
        ),
    ],
)
def test_what_psql_says_is_kept_without_values(said: str, kept: str) -> None:
    assert describe_output(said).strip() == kept

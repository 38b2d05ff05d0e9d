"""Statements: any identifier and any text reach any server as they are, and settings mean the same everywhere."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL, Composed, Identifier, Literal

from airflow_provider_safecopy.demo.servers import Installation, installations
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql_output import Transcript
from tests.conftest import MakeDatabase
from tests.support.database import PRESENT, Database, Servers
from tests.support.selection import number_of_examples

NONCE = "0123456789abcdef"
SYSTEM = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
AWKWARD = st.text(st.sampled_from("가각\u1100\u1161\"'`:;\\%{}$-/* \t\n\raA_USER0"), min_size=1, max_size=30)
IDENTIFIERS = (
    AWKWARD | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
).filter(lambda text: len(text.encode()) <= 63 and text not in SYSTEM and not text.startswith("pg_"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | AWKWARD
on_a_server = settings(max_examples=number_of_examples(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[Database]:
    made = servers.create(18, "UTF8", None)
    yield made
    servers.drop(made)


@pytest.fixture(scope="module")
def session(database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with database.connect() as session:
        yield session


def exported(
    psql: str, database: Database, query: SQL | psycopg.sql.Composed, output: Path, seconds: float = 60
) -> str:
    """What a real psql writes when it runs the export's script."""
    with database.connect() as session, session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ((snapshot,),) = session.execute("SELECT pg_export_snapshot()").fetchall()
        said = run_export(psql, database, statements.subquery(query), snapshot=snapshot, output=output, seconds=seconds)
    transcript = Transcript(NONCE)
    transcript.feed(said)
    assert transcript.values("end") == [""], said.decode()
    written = output.read_bytes().decode()
    assert transcript.number("rows") == written.count("\n")
    return written


def run_export(psql: str, database: Database, read: Composed, *, snapshot: str, output: Path, seconds: float) -> bytes:
    """As the export does it: what psql could act upon is in no script."""
    copy = copy_script.export_copy(read, format="text")
    opening = copy_script.export_opening(snapshot=snapshot, nonce=NONCE, seconds=seconds)
    if copy_script.is_plain(copy):
        script = copy_script.export_script(
            read, format="text", snapshot=snapshot, output=str(output), nonce=NONCE, seconds=seconds
        )
        assert script.startswith(opening)
        return run(psql, database, script)
    first = output.with_name(f"opening-{secrets.token_hex(4)}")
    first.write_text(opening, "utf-8")
    told = copy_script.export_output(str(output))
    words = ("-f", str(first), "-c", told, "-c", copy.as_string(None))
    return run(psql, database, copy_script.export_end(NONCE, snapshot=snapshot), *words)


def run(psql: str, database: Database, script: str, *words: str) -> bytes:
    command = [psql, "-X", "-w", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.conninfo, *words, "-f", "-"]
    environment = {"PGCLIENTENCODING": "UTF8", "LC_ALL": "C"}
    done = subprocess.run(
        command, input=script.encode(), capture_output=True, check=False, env=environment, timeout=100
    )
    return done.stderr


# Identifiers


@on_a_server
@given(names=st.tuples(IDENTIFIERS, IDENTIFIERS, IDENTIFIERS, IDENTIFIERS))
@example(names=("영업", "가나다라마바사아자차카타파하거너더러머버서", '"', "'"))
@example(names=(":USER", "a\\g b", ":'HOST'", "\\! true"))
@example(names=("$$", "--", "/*", "%s %(x)s {} {0}"))
def test_any_identifier_survives_every_statement(
    psql: str, database: Database, tmp_path_factory: pytest.TempPathFactory, names: tuple[str, str, str, str]
) -> None:
    schema, name, *columns = names
    assume(columns[0] != columns[1] and schema != "public")
    table, staging = TableName(schema, name), TableName("public", "staging")
    output = tmp_path_factory.mktemp("out") / "rows"
    with database.connect() as session, session.transaction(force_rollback=True):
        session.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
        made = SQL("CREATE TABLE {} ({} int, {} text)").format(statements.table(table), *map(Identifier, columns))
        session.execute(made)
        session.execute(statements.create_staging(staging, zip(columns, ("integer", "text"), strict=True)))
        with session.cursor().copy(copy_script.load_copy(staging, columns, format="text").encode()) as copy:
            copy.write("1\t하나\n2\t둘\n".encode())
        session.execute(statements.lock(table, "SHARE ROW EXCLUSIVE"))
        for emptied in (statements.delete(table), statements.truncate(table)):
            session.execute(emptied)
            assert session.execute(statements.insert(table, staging, columns, identity=False)).rowcount == 2
            assert session.execute(statements.count(table)).fetchone() == (2,)
        where = SQL("{} = 1").format(Identifier(columns[0])).as_string()
        query = statements.select(columns[::-1], table, where)
        assert session.execute(query).fetchall() == [("하나", 1)]
        hashes = [statements.content_hash(columns, statements.select(columns, each, None)) for each in (table, staging)]
        assert session.execute(hashes[0]).fetchall() == session.execute(hashes[1]).fetchall()
        session.execute(statements.explain(query))
        assert session.execute(statements.any_row(query)).fetchone() == (True,)
        session.execute(statements.drop_staging(staging))
    # And the names in the script that psql reads; a query of ours makes the table.
    listed = SQL("SELECT 1 AS {}, '둘' AS {}").format(*map(Identifier, columns)).as_string()
    assert exported(psql, database, statements.select(columns[::-1], listed, None), output) == "둘\t1\n"


def test_the_columns_of_a_table_without_columns(session: psycopg.Connection[tuple[object, ...]]) -> None:
    table, staging = TableName("public", "없는_열"), TableName("public", "staging")
    with session.transaction(force_rollback=True):
        session.execute("CREATE TABLE public.없는_열 ()".encode())
        session.execute(statements.create_staging(staging, []))
        with session.cursor().copy(copy_script.load_copy(staging, [], format="text").encode()) as copy:
            copy.write(b"\n\n\n")
        assert session.execute(statements.insert(table, staging, [], identity=False)).rowcount == 3
        assert session.execute(statements.count(table)).fetchone() == (3,)
        query = statements.content_hash([], statements.select([], table, None))
        assert session.execute(query).fetchall()[0][0] == 3


def test_an_identity_column_takes_the_sources_values(session: psycopg.Connection[tuple[object, ...]]) -> None:
    table, staging = TableName("public", "표"), TableName("public", "staging")
    with session.transaction(force_rollback=True):
        session.execute("CREATE TABLE public.표 (번호 int GENERATED ALWAYS AS IDENTITY)".encode())
        session.execute(statements.create_staging(staging, [("번호", "integer")]))
        session.execute("INSERT INTO public.staging VALUES (42)")
        session.execute(statements.insert(table, staging, ["번호"], identity=True))
        assert session.execute("TABLE public.표".encode()).fetchall() == [(42,)]


def test_staging_is_unlogged_and_left_alone_by_autovacuum(session: psycopg.Connection[tuple[object, ...]]) -> None:
    with session.transaction(force_rollback=True):
        session.execute(statements.create_staging(TableName("public", "staging"), [("값", "numeric(12,2)")]))
        told = session.execute(
            "SELECT relpersistence::text, reloptions FROM pg_class WHERE oid = 'public.staging'::regclass"
        )
        assert told.fetchone() == ("u", ["autovacuum_enabled=off"])


# SQL of a user's


@on_a_server
@given(text=TEXTS, comment=AWKWARD)
@example(text="a\\b'c", comment="-- \\! true")
@example(text="10:30", comment="it's")
@example(text="$x$ :x", comment="\\g /tmp/safecopy-test-was-here")
def test_any_text_in_a_query_reaches_the_server_through_psql(
    psql: str, database: Database, tmp_path_factory: pytest.TempPathFactory, text: str, comment: str
) -> None:
    assume("*/" not in comment and "/*" not in comment)
    query = f"/* {comment} */ SELECT {Literal(text).as_string()} AS 값 -- {comment.splitlines()[0]}"
    where = f"값 = {Literal(text).as_string()}"
    composed = statements.select(["값"], query, where)
    output = tmp_path_factory.mktemp("out") / "rows"
    written = exported(psql, database, composed, output)
    escapes = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    assert written == "".join(escapes.get(letter, letter) for letter in text) + "\n"
    assert not Path("/tmp/safecopy-test-was-here").exists()


@pytest.mark.parametrize("installation", installations(), ids=lambda each: f"psql {each.major}")
def test_every_variable_that_psql_sets_is_seen(database: Database, installation: Installation) -> None:
    psql = str(installation.psql)
    script = "SELECT pg_backend_pid() AS safecopy_backend \\gset\nSELECT 1/0;\n\\! true\n\\set\n"
    command = [psql, "-X", "-q", database.conninfo, "-f", "-"]
    done = subprocess.run(command, input=script.encode(), capture_output=True, check=True, timeout=100)
    names = re.findall(r"(?m)^(\w+) = ", done.stdout.decode())
    assert {"USER", "SQLSTATE", "ROW_COUNT", "LAST_ERROR_MESSAGE", "safecopy_backend"} <= set(names)
    for name in names:
        for place in (f":{name}", f":'{name}'", f':"{name}"', f":::{name}", f":{{?{name}}}"):
            assert not copy_script.is_plain(f"(array[1,2])[1{place}]"), place


@pytest.mark.parametrize(
    "text", ["a::text", "x = '10:30'", "(array[1,2])[1:2]", "a::USER", 'a::"이름"', "{?x}", "a :: b"]
)
def test_what_psql_can_only_send_may_stand_in_a_script(text: str) -> None:
    assert copy_script.is_plain(text)


@pytest.mark.parametrize("text", ["'\\'", "\\! x", ";", "a[1:HOST]", ":'x'", ':"x"', ":{?x}", ":이름", "f(:SQLSTATE)"])
def test_what_psql_could_act_upon_may_not(text: str) -> None:
    assert not copy_script.is_plain(text)


# Settings

ODD = {
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "TimeZone": "'Asia/Seoul'",
    "extra_float_digits": "-10",
    "bytea_output": "'escape'",
    "search_path": "'없는_곳'",
    "xmloption": "'document'",
    "standard_conforming_strings": "off",
    "row_security": "on",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
}


@pytest.mark.parametrize("major", PRESENT)
def test_the_databases_own_settings_change_nothing(
    database_of: MakeDatabase, psql: str, tmp_path: Path, major: int
) -> None:
    made = database_of(major=major)
    for name, value in ODD.items():
        made.execute(f'ALTER DATABASE "{made.name}" SET {name} = {value}')
    query = SQL(
        "SELECT date '2026-11-20', timestamptz '2026-11-20 09:00+09', interval '1 year 2 days', "
        "0.1::float8 + 0.2::float8, '\\x00ff'::bytea, 'a\\b'"
    )
    written = exported(psql, made, query, tmp_path / "rows")
    assert written == "2026-11-20\t2026-11-20 00:00:00+00\t1 year 2 days\t0.30000000000000004\t\\\\x00ff\ta\\\\b\n"


@pytest.fixture
def database_of(servers: Servers) -> Iterator[MakeDatabase]:
    """As the fixture `database` elsewhere, whose name the whole file's database has taken."""
    made: list[Database] = []

    def make(*, major: int = 18, encoding: str = "UTF8", locale: str | None = None) -> Database:
        made.append(servers.create(major, encoding, locale))
        return made[-1]

    yield make
    for each in made:
        servers.drop(each)


@pytest.mark.parametrize("major", PRESENT)
def test_timeouts_of_the_database_do_not_cut_a_stage(
    database_of: MakeDatabase, psql: str, tmp_path: Path, major: int
) -> None:
    made = database_of(major=major)
    names = ["statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"]
    for name in [*names, *(["transaction_timeout"] if major >= 17 else [])]:
        made.execute(f"ALTER DATABASE \"{made.name}\" SET {name} = '400ms'")
    script = copy_script.load_prologue(nonce=NONCE, seconds=60)
    said = run(psql, made, script + "\\! sleep 0.6\nSELECT pg_sleep(0.6);\n" + copy_script.load_commit(NONCE))
    transcript = Transcript(NONCE)
    transcript.feed(said)
    assert transcript.values("committed") == [""], said.decode()


def test_our_own_timeout_is_the_servers_too_but_later(database: Database, psql: str) -> None:
    script = copy_script.load_prologue(nonce=NONCE, seconds=7.4)
    asked = "SELECT current_setting('statement_timeout') AS answer \\gset\n\\warn :answer\n"
    assert run(psql, database, script + asked).decode().splitlines()[-1] == "127s"


@pytest.mark.parametrize("seconds, told", [(0.0001, "1ms"), (0.2, "200ms"), (1, "1000ms"), (3600, "3600000ms")])
def test_a_timeout_is_never_rounded_to_none(seconds: float, told: str) -> None:
    assert statements.set_timeout("lock_timeout", seconds).as_string() == f"SET LOCAL lock_timeout = '{told}'"

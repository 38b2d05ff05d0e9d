"""Static SQL: every statement has one name, is used, and means something to every major we meet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest

import airflow_provider_safecopy
from airflow_provider_safecopy import sql
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.postgres import statements
from tests.support.database import PRESENT, Database, Servers

FILES = sorted(path.name.removesuffix(".sql") for path in files(sql).iterdir() if path.name.endswith(".sql"))
CORE = ("aftermath", "blockers", "carry", "catalog", "define", "lock", "receipt", "schema", "sequence", "watermark")
STATEMENTS = [(file, name) for file in CORE for name in sql.load(file)]
EXPLAINED = [
    (file, name)
    for file, name in STATEMENTS
    if re.search(r"(?m)^(SELECT|WITH|INSERT|UPDATE|DELETE)\b", sql.load(file)[name])
]
CODE = "\n".join(path.read_text() for path in Path(next(iter(airflow_provider_safecopy.__path__))).rglob("*.py"))


@pytest.fixture(scope="module")
def prepared(servers: Servers) -> Iterator[dict[int, Database]]:
    """A database of each major that holds the schema safecopy."""
    made = {major: servers.create(major, "UTF8", None) for major in PRESENT}
    for database in made.values():
        with database.connect() as session:
            schema.init(session)
    yield made
    for database in made.values():
        servers.drop(database)


def test_the_core_has_its_files() -> None:
    assert set(CORE) <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_every_name_in_a_file_is_given_once_and_holds_something(file: str) -> None:
    text = (files(sql) / f"{file}.sql").read_text(encoding="utf-8")
    names = re.findall(r"(?m)^-- name: (.*)$", text)
    assert names
    assert list(sql.load(file)) == names
    assert len(set(names)) == len(names)
    for body in sql.load(file).values():
        assert re.sub(r"(?m)^\s*--.*$", "", body).strip()


@pytest.mark.parametrize("file", FILES)
def test_a_server_gets_what_is_for_it_and_not_what_is_for_readers(file: str) -> None:
    """Comments and indentation are left out; that is safe where no literal spans lines."""
    for line in "\n".join(sql.load(file).values()).splitlines():
        assert line == line.lstrip()
        assert not line.startswith("--")
        assert line.count("'") % 2 == 0
    text = (files(sql) / f"{file}.sql").read_text(encoding="utf-8")
    kept = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("--")]
    assert [line for body in sql.load(file).values() for line in body.splitlines() if line] == kept


def test_a_file_is_read_once_and_cannot_be_changed() -> None:
    assert sql.load("lock") is sql.load("lock")
    with pytest.raises(TypeError):
        sql.load("lock")["acquire"] = "SELECT 1"  # type: ignore[index]


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        sql.load("lock")["steal"]
    with pytest.raises(FileNotFoundError):
        sql.load("없음")


@pytest.mark.parametrize("file, name", STATEMENTS)
def test_every_statement_is_used(file: str, name: str) -> None:
    assert f'"{name}"' in CODE


@pytest.mark.parametrize("major", PRESENT)
@pytest.mark.parametrize("file, name", EXPLAINED)
def test_every_major_can_plan_it(prepared: dict[int, Database], file: str, name: str, major: int) -> None:
    statement = re.sub(r"%\(\w+\)s", "NULL", sql.load(file)[name]).replace("%%", "%")
    with prepared[major].connect() as session, session.transaction():
        session.execute("SET LOCAL search_path = pg_catalog")
        session.execute(f"EXPLAIN {re.sub(r'(?m)^--.*$', '', statement)}".encode())


@pytest.mark.parametrize("file", ["aftermath", "carry", "catalog", "define", "key", "pages", "watermark"])
def test_a_number_is_never_taken_for_a_name(prepared: dict[int, Database], file: str) -> None:
    """As has_table_privilege() takes one whose type it is not told."""
    types = "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'asked'"
    with prepared[PRESENT[-1]].connect() as session:
        session.execute("SET search_path = pg_catalog")
        for name, (text, asked) in ((name, sql.number_parameters(body)) for name, body in sql.load(file).items()):
            if "oid" in asked:
                session.execute(f"PREPARE asked AS {text}".encode())
                known = session.execute(types).fetchall()[0][0]
                assert dict(zip(asked, known, strict=True))["oid"] in {"oid", "regclass"}, name
                session.execute("DEALLOCATE asked")


def test_of_the_core_only_what_makes_or_sets_something_cannot_be_planned() -> None:
    left = {name for _, name in STATEMENTS} - {name for _, name in EXPLAINED}
    assert left == {
        "as_the_role",
        "own_names",
        "rows_as_usual",
        "settings",
        *schema._MAKING_STATEMENTS,
        *schema._GRANTS,
    } - {
        "lock_of_layout_1",
        "receipt_texts",
        "watermark_texts",
    }


def test_nothing_cascades() -> None:
    code = re.sub(r"(?m)#.*$|\"\"\"(?s:.*?)\"\"\"", "", CODE)
    for file in FILES:
        code += re.sub(r"(?m)--.*$", "", "\n".join(sql.load(file).values()))
    assert not re.search(r"\bCASCADE\b", code)


@pytest.mark.parametrize("major", PRESENT)
def test_every_session_can_be_pinned(prepared: dict[int, Database], major: int) -> None:
    with prepared[major].connect() as session:
        for statement in statements.session_pins():
            session.execute(statement)
        session.execute(sql.load("catalog")["pin"])
        session.execute(sql.load("catalog")["read_only"])
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute("CREATE TABLE 표 ()")
        assert session.execute("SELECT current_schemas(true)").fetchone() == (["pg_catalog"],)
        assert session.execute(
            "SELECT 1.1::float8::text, date '2026-11-20'::text, '\\x01'::bytea::text"
        ).fetchone() == (
            "1.1",
            "2026-11-20",
            "\\x01",
        )

"""No text that a user gives becomes a statement, a psql command or a file: whatever it holds, and wherever it is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier, Literal

from airflow_provider_safecopy import pipeline, table_list
from airflow_provider_safecopy.cli.table_list import read
from airflow_provider_safecopy.errors import ConfigError, PlanError, SafeCopyError, StageError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.spec import CopySpec
from tests.faults.canary import FILE, NEST, NO_TEXT, SIGNS, STATEMENTS, Nest, examples, hostile
from tests.faults.invariant import said
from tests.support.content import rows_of
from tests.support.customers import OLD, SHAPE, TABLE, fill
from tests.support.database import Database


@pytest.fixture(params=["standard", "with backslashes"])
def nest(source: Database, target: Database, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nest]:
    """On servers as they come, and on such whose strings have escapes unless somebody says otherwise."""
    places = tmp_path / "spool", tmp_path / "commands"
    for place in places:
        place.mkdir()
    sung: list[str] = []
    with ExitStack() as stack:
        sessions = []
        for database in (source, target):
            database.execute(SHAPE)
            database.execute(NEST)
            if request.param == "with backslashes":
                database.execute(f'ALTER DATABASE "{database.name}" SET standard_conforming_strings = off')
            session = stack.enter_context(closing(database.connect()))
            session.add_notify_handler(lambda notice: sung.append(notice.channel))
            session.execute("LISTEN 카나리아")
            sessions.append(session)
        fill(source, 200)
        target.execute(OLD)
        with target.connect() as session:
            schema.init(session)
        yield Nest(source, target, places[0], tuple(sessions), places[1], sung)


standard_alone = pytest.mark.parametrize("nest", ["standard"], indirect=True)


def test_the_canary_sings(nest: Nest) -> None:
    nest.demand_silence()
    for database in (nest.source, nest.target):
        database.execute("SELECT 1; NOTIFY 카나리아; SELECT 1")
    with pytest.raises(AssertionError):
        nest.demand_silence()
    assert nest.sung == ["카나리아"] * 2
    nest.sung.clear()
    nest.demand_silence()
    (nest.commands / FILE).touch()
    with pytest.raises(AssertionError):
        nest.demand_silence()


@standard_alone
def test_it_sings_where_the_protocol_lets_several_statements_through(
    nest: Nest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds a second one off is that a user's SQL is only asked in the protocol's way for one statement."""

    def one(self: Session, query: Any, parameters: Any = None) -> Any:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, parameters).fetchone()

    second = "true; COMMIT; NOTIFY 카나리아; SELECT true"  # even out of the transaction that is rolled back
    with pytest.raises(PlanError):
        nest.copy(where=second, min_rows=0)
    nest.demand_silence()
    monkeypatch.setattr(Session, "fetch_one", one)
    with suppress(SafeCopyError):
        nest.copy(where=second, min_rows=0)
    with pytest.raises(AssertionError):
        nest.demand_silence()


# Names of what is there: they must work, whatever they hold


def _is_name(text: str) -> bool:
    return 0 < len(text.encode()) <= 63


@standard_alone
def test_a_table_is_copied_whatever_it_and_its_columns_are_called(nest: Nest) -> None:
    invariant = nest.invariant()
    name = hostile(also=nest.escapes(), most=3).filter(_is_name)

    @examples(4)
    @given(name, name, name, name, st.sampled_from(["swap", "delta", "delete_insert"]))
    def copied(where: str, table: str, key: str, other: str, publish: str) -> None:
        assume(key != other and not where.startswith("pg_"))
        made = SQL("CREATE TABLE {} ({} int PRIMARY KEY, {} text)").format(
            Identifier(where, table), Identifier(key), Identifier(other)
        )
        rows = SQL("INSERT INTO {} VALUES (1, '하나'), (2, {})").format(Identifier(where, table), Literal(other))
        for database in (nest.source, nest.target):
            with database.connect() as session:
                session.execute(SQL("CREATE SCHEMA {}").format(Identifier(where)))
                session.execute(made)
        with nest.source.connect() as session:
            session.execute(rows)
        pair = (where, table)
        asked = CopySpec.of(
            source_table=pair, target_table=pair, columns=[other, key], key_columns=[key] if publish == "delta" else None,
            publish=publish, verify="full", lock=other if other.strip() else None, spool_dir=str(nest.spool),
        )  # fmt: skip
        try:
            report = pipeline.copy(asked, nest.source.endpoint, nest.target.endpoint, owner=other)
            assert report.rows == 2
            query = Identifier(where, table).as_string(None)
            assert rows_of(nest.source, f"SELECT * FROM {query}") == rows_of(nest.target, f"SELECT * FROM {query}")
            nest.demand_silence()
        finally:
            for database in (nest.source, nest.target):
                with database.connect() as session:
                    session.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(where)))

    copied()
    invariant.recovered(nest.copy)


# Text that names nothing, or is SQL of the user's own


WHERE = [
    "{}",
    "이름 = '{}'",
    "true) {} (true",
    "true -- {}",
    "true /* {} */",
    "번호 > 0 AND '{}' <> ''",
    "이름 <> $${}$$",
]
QUERY = ["{}", "SELECT * FROM 영업.고객 {}", "SELECT * FROM 영업.고객) AS x {} (SELECT 1", "TABLE 영업.고객 -- {}"]
OPTIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "source_table": lambda text: {"source_table": text},
    "source pair": lambda text: {"source_table": ("영업", text)},
    "target_table": lambda text: {"target_table": text},
    "target pair": lambda text: {"target_table": (text, "고객")},
    "created table": lambda text: {"target_table": (text, "고객"), "create_target": True},
    "columns": lambda text: {"columns": ["번호", text]},
    "renamed column": lambda text: {"columns": {"번호": text}},
    "key_columns": lambda text: {"write_mode": "upsert", "key_columns": [text]},
    "cursor_column": lambda text: {"write_mode": "incremental", "cursor_column": text},
    "lookback": lambda text: {"write_mode": "incremental", "cursor_column": "가입", "lookback": text},
    "interval": lambda text: {
        "write_mode": "incremental",
        "cursor_column": "가입",
        "interval_start": "2026-01-01",
        "interval_end": text,
    },
    "missing_column": lambda text: {"write_mode": "upsert", "missing": "mark", "missing_column": text},
    "max_null_share": lambda text: {"max_null_share": {text: 5.0}},
    "spool_dir": lambda text: {"spool_dir": text},
    "psql": lambda text: {"psql": text},
    "lock": lambda text: {"lock": text},
}


@standard_alone
def test_text_that_names_nothing_is_an_error_of_ours_and_does_nothing(nest: Nest) -> None:
    """The plan asks all questions; what it accepts is what the next test copies."""
    invariant = nest.invariant()

    @examples(20)
    @given(st.sampled_from(sorted(OPTIONS)), hostile(also=[*nest.escapes(), *NO_TEXT]))
    def refused(option: str, text: str) -> None:
        assume(option != "psql" or not text.isalnum())
        asked: dict[str, Any] = {"source_table": "영업.고객", "target_table": "영업.고객", "min_rows": 0}
        with suppress(ConfigError):  # any other error is none that a text may bring about
            pipeline.plan(CopySpec.of(**asked | OPTIONS[option](text)), nest.source.endpoint, nest.target.endpoint)
        nest.demand_silence()

    refused()
    assert invariant.hold("unchanged") == "old"


def test_sql_of_a_user_stays_one_statement_that_reads(nest: Nest) -> None:
    """What the servers take for one expression, or one query, is copied; anything else is refused."""
    invariant = nest.invariant()
    text = hostile(also=nest.escapes())
    sql = st.tuples(st.sampled_from(["where", "source_sql"]), st.integers(0, 6), text)

    @examples(8)
    @given(sql)
    def single(given: tuple[str, int, str]) -> None:
        option, at, pieces = given
        if option == "where":
            asked = {"source_table": "영업.고객", "where": WHERE[at].format(pieces)}
        else:
            asked = {"source_sql": QUERY[at % len(QUERY)].format(pieces)}
        wanted = {"target_table": "영업.고객", "spool_dir": str(nest.spool)} | asked
        with suppress(SafeCopyError):
            pipeline.copy(CopySpec.of(**wanted), nest.source.endpoint, nest.target.endpoint)
        nest.demand_silence()

    single()
    invariant.recovered(nest.copy)


# One statement, in which the text stands where SQL lets any text stand: it is none of psql's to read.
WITHIN: dict[str, Callable[[str], dict[str, str]]] = {
    "a string": lambda text: {"where": "이름 <> '" + text.replace("'", "''") + "'"},
    "a string with escapes": lambda text: {
        "where": "이름 <> E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    },
    "dollars": lambda text: {"where": f"이름 <> $카나리아${text}$카나리아$"},
    "a comment": lambda text: {"where": f"번호 > 0 /* {text.replace('*/', '').replace('/*', '')} */"},
    "the rest of a line": lambda text: {"where": f"번호 > 0 -- {' '.join(text.splitlines())}"},
    "a name": lambda text: {"source_sql": "SELECT * FROM 영업.고객 AS " + Identifier(text).as_string(None)},
    "a name and a string": lambda text: {
        "source_sql": f"SELECT * FROM 영업.고객 AS {Identifier(text).as_string(None)} WHERE 이름 <> $새${text}$새$"
    },
}


def test_sql_of_a_user_is_copied_whatever_its_strings_comments_and_names_hold(nest: Nest) -> None:
    invariant = nest.invariant()

    @examples(6)
    @given(st.sampled_from(sorted(WITHIN)), hostile(also=nest.escapes(), most=6))
    def whole(place: str, text: str) -> None:
        asked = {"source_table": "영업.고객"} | WITHIN[place](text)
        if "source_sql" in asked:
            del asked["source_table"]
        wanted = CopySpec.of(target_table="영업.고객", spool_dir=str(nest.spool), **asked)
        report = pipeline.copy(wanted, nest.source.endpoint, nest.target.endpoint)
        assert report.rows == 200
        nest.demand_silence()

    whole()
    invariant.recovered(nest.copy)


# The lock


def test_names_owners_and_reasons_of_locks_come_back_as_they_were_given(nest: Nest) -> None:
    invariant = nest.invariant()
    words = hostile(also=NO_TEXT)

    @examples(20)
    @given(words, words, words)
    def kept(name: str, owner: str, reason: str) -> None:
        try:
            with LivingLock(
                name, nest.target.endpoint, contender=replace(Contender.alone(owner), process=None)
            ) as lock:
                lock.send_heartbeat(phase=1, count=1)
                (held,) = [holder for holder in lock.store.read_holders() if holder.name == name]
                assert owner in held.as_dict()["owner"].values() or not owner.strip()
                assert lock.store.force_release(name, reason=reason) is not None
                (event,) = lock.store.read_history(name, limit=1)
                assert (event.kind, (event.detail or {})["reason"]) == ("force-release", reason)
        except SafeCopyError as error:
            if error.retryable:  # the same text would be met again
                raise
            if name.strip() and not any(sign in word for word in (name, owner, reason) for sign in NO_TEXT):
                raise
        nest.demand_silence()

    kept()
    assert invariant.hold("unchanged") == "old"


# Where the databases are, and lists of tables


@standard_alone
def test_a_connection_s_own_texts_are_values(nest: Nest) -> None:
    invariant = nest.invariant()
    parameters = nest.target.endpoint.parameters

    @examples(15)
    @given(st.sampled_from(["application_name", "dbname", "user", "fallback_application_name"]), hostile(also=NO_TEXT))
    def reached(key: str, text: str) -> None:
        with suppress(ConfigError, StageError):
            endpoint = Endpoint.from_parameters({**parameters, key: text})
            with endpoint.connect(application_name="safecopy:test", connect_timeout=5) as session:
                named = session.execute("SELECT current_setting('application_name')").fetchone()
            assert named == ("safecopy:test",)
        nest.demand_silence()

    reached()
    assert invariant.hold("unchanged") == "old"


@standard_alone
def test_a_list_of_tables_is_read_as_names_or_refused(nest: Nest, tmp_path: Path) -> None:
    invariant = nest.invariant()
    texts = hostile(also=[*nest.escapes(), *NO_TEXT[:1], '"큰 고객"', "영업.고객"], most=8)

    @examples(15)
    @given(texts, st.booleans())
    def listed(text: str, as_json: bool) -> None:
        path = tmp_path / ("목록.json" if as_json else "목록.txt")
        content = json.dumps([{"source_table": text, "target_table": text, "where": text}]) if as_json else text
        path.write_text(content, "utf-8")
        with suppress(ConfigError, PlanError):
            specs = table_list.build_specs(read(str(path)), {})
            pipeline.plan_tables(specs, nest.source.endpoint, nest.target.endpoint)
        nest.demand_silence()

    listed()
    assert invariant.hold(said(2)) == "old"


@standard_alone
def test_what_is_told_of_a_release_is_told_by_the_store_as_well(nest: Nest) -> None:
    """Percent signs, braces and quotes meet both of the ways a statement is filled in."""
    with closing(PostgresStore(nest.target.endpoint)) as store:
        for word in (*SIGNS, *STATEMENTS):
            name = f"이름{word}"
            lease = store.acquire(
                name, replace(Contender.alone(word + "주인"), process=None), LivingLock(name, store).terms
            )
            assert store.force_release(name, reason=f"{word}까닭") is not None, lease
    nest.demand_silence()
    reasons = nest.target.rows(
        "SELECT detail->>'reason' FROM safecopy.lock_event WHERE kind = 'force-release' ORDER BY id"
    )
    assert [reason for (reason,) in reasons] == [f"{word}까닭" for word in (*SIGNS, *STATEMENTS)]
    assert nest.target.value(f"SELECT count(*) FROM {TABLE}") == 2

"""Staging: named within what the server counts, made for one attempt, and swept when its run is gone."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.lock import schema as lock
from airflow_provider_safecopy.lock.model import format_application_name
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.publish.staging import build_name, drop_leftovers, hold_staging
from tests.conftest import MakeDatabase, MakeRole
from tests.support.customers import OLD, SHAPE, fill, spec
from tests.support.database import Database

ATTEMPT = UUID("0123abcd-0000-4000-8000-000000000000")
SUFFIX = re.compile(r"__safecopy_[0-9]+_[0-9a-f]{8}$")
FULL = "가나다라마바사아자차카타파하거너더러머버서"  # 21 syllables, 63 bytes
TOKENS = st.integers(1, 2**63 - 1)


def names(codec: str) -> st.SearchStrategy[str]:
    # U+3164 is in EUC-KR, but Python spells it in another way than it reads it.
    return st.text(st.characters(codec=codec, exclude_characters="\0\u3164"), min_size=1, max_size=63).filter(
        lambda name: len(name.encode(codec)) <= 63
    )


def named(name: str, *, token: int = 7, encoding: str = "UTF8", schema: str = "영업") -> str:
    made = build_name(TableName(schema, name), token=token, attempt=ATTEMPT, encoding=encoding)
    assert made.schema == "safecopy"
    return made.name


# Names


@given(names("utf-8"), TOKENS)
@example(FULL, 1)
@example("😀" * 15, 2**63 - 1)
def test_any_name_of_a_utf8_database_fits(name: str, token: int) -> None:
    made = named(name, token=token)
    assert len(made.encode()) <= 63
    assert SUFFIX.search(made)
    assert made.isprintable()


@given(names("euc_kr"), TOKENS)
@example("가" * 31, 1)
def test_any_name_of_an_euc_kr_database_fits(name: str, token: int) -> None:
    made = named(name, token=token, encoding="EUC_KR")
    assert len(made.encode("euc_kr")) <= 63
    assert SUFFIX.search(made)


@given(names("latin-1"), TOKENS, st.sampled_from(["LATIN1", "WIN1252", "EUC_JP"]))
def test_where_the_encoding_is_another_utf8_is_room_enough(name: str, token: int, encoding: str) -> None:
    assert len(named(name, token=token, encoding=encoding).encode()) <= 63


@given(st.lists(names("utf-8"), min_size=2, max_size=2, unique=True))
@example([FULL, FULL[:-1] + "머"])
@example(["고객", "고객\x01"])
@example(["고객\x01", "고객\x02"])
def test_two_tables_never_share_a_name(pair: list[str]) -> None:
    assert named(pair[0]) != named(pair[1])


def test_long_names_in_two_schemas_never_share_a_name() -> None:
    assert named(FULL) != named(FULL, schema="분석")


def test_the_suffix_tells_token_and_attempt() -> None:
    assert named("고객") == "고객__safecopy_7_0123abcd"
    assert named("고객", token=2**63 - 1) == f"고객__safecopy_{2**63 - 1}_0123abcd"


def test_a_long_name_is_cut_at_a_letters_border_and_told_apart_by_a_hash() -> None:
    made = named(FULL)
    assert re.fullmatch(f"{FULL[:11]}_[0-9a-f]{{6}}__safecopy_7_0123abcd", made)
    made = named("가" * 31, encoding="EUC_KR")
    assert re.fullmatch("가{17}_[0-9a-f]{6}__safecopy_7_0123abcd", made)


@pytest.mark.parametrize(
    "encoding, name", [("UTF8", FULL), ("UTF8", "😀" * 15), ("EUC_KR", "가" * 31), ("EUC_KR", "x" * 63)]
)
def test_the_server_keeps_the_name_as_it_is(database: MakeDatabase, encoding: str, name: str) -> None:
    made = database(encoding=encoding, locale="C")
    with open_session(made.endpoint, application_name=format_application_name(ATTEMPT), connect_timeout=10) as session:
        lock.init(session.connection)
        given = build_name(TableName("영업", name), token=7, attempt=ATTEMPT, encoding=session.server.encoding)
        session.connection.execute(statements.create_staging(given, [("번호", "integer")]))
    assert made.rows("SELECT relname::text FROM pg_class WHERE strpos(relname, '__safecopy_') > 0") == [(given.name,)]


# For the time of a block


@pytest.fixture
def planned(source: Database, target: Database) -> CopyPlan:
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 3)
    target.execute(OLD)
    return pipeline.plan(spec(columns=["금액", "이름"]), source.endpoint, target.endpoint)


@pytest.fixture
def opened(target: Database) -> Callable[..., AbstractContextManager[Session]]:
    """Open a session of an attempt in a target that holds the schema safecopy."""
    with target.connect() as session:
        lock.init(session)

    def open_(attempt: UUID = ATTEMPT, database: Database = target) -> AbstractContextManager[Session]:
        return open_session(database.endpoint, application_name=format_application_name(attempt), connect_timeout=10)

    return open_


def tables(target: Database) -> list[str]:
    found = target.rows("SELECT relname::text FROM pg_class WHERE strpos(relname, '__safecopy_') > 0 ORDER BY 1")
    return [name for (name,) in found]


def test_it_has_the_columns_to_be_copied_and_is_gone_afterwards(
    planned: CopyPlan, target: Database, opened: Callable[..., AbstractContextManager[Session]]
) -> None:
    in_place = replace(planned, publish="delete_insert")  # a swap's has all the columns of the target
    with opened() as session:
        with hold_staging(in_place, session, token=7, attempt=ATTEMPT) as name:
            assert tables(target) == [name.name] == ["고객__safecopy_7_0123abcd"]
            columns = target.rows(
                "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
                [f'safecopy."{name.name}"'],
            )
            assert columns == [("금액", "numeric(12,2)", False), ("이름", "character varying(40)", False)]
        assert tables(target) == []


def test_it_is_gone_when_the_block_fails(
    planned: CopyPlan, target: Database, opened: Callable[..., AbstractContextManager[Session]]
) -> None:
    def fail(session: Session) -> None:
        with hold_staging(planned, session, token=7, attempt=ATTEMPT):
            raise KeyError("영업")

    with opened() as session:
        with pytest.raises(KeyError):
            fail(session)
        assert tables(target) == []


def test_when_the_session_is_lost_it_stays_and_the_next_run_drops_it(
    planned: CopyPlan,
    target: Database,
    opened: Callable[..., AbstractContextManager[Session]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with opened() as session, hold_staging(planned, session, token=7, attempt=ATTEMPT):
        target.execute("SELECT pg_terminate_backend(%s, 10000)", [session.server.backend])
    assert "left behind: safecopy.고객__safecopy_7_0123abcd: " in caplog.text
    assert tables(target) == ["고객__safecopy_7_0123abcd"]
    with opened(uuid4()) as session:
        assert drop_leftovers(session) == ("safecopy.고객__safecopy_7_0123abcd",)
    assert tables(target) == []
    assert "dropped, its run is gone" in caplog.text


def test_where_it_cannot_be_made_the_import_has_failed(planned: CopyPlan, target: Database) -> None:
    named = format_application_name(ATTEMPT)
    with (
        open_session(target.endpoint, application_name=named, connect_timeout=10) as session,
        pytest.raises(StageError, match="cannot be made") as caught,
        hold_staging(planned, session, token=7, attempt=ATTEMPT),
    ):
        pass
    assert (caught.value.stage, caught.value.sqlstate) == ("import", "3F000")


# Swept


def leave(target: Database, attempt: UUID, *, token: int = 3, name: str = "고객") -> str:
    """A staging table of an attempt, as its run would have made it."""
    made = build_name(TableName("영업", name), token=token, attempt=attempt, encoding="UTF8")
    with target.connect() as session:
        session.execute(statements.create_staging(made, [("번호", "integer")]))
    return made.name


def test_a_sweep_drops_what_dead_runs_left_and_nothing_of_a_living_one(
    target: Database, opened: Callable[..., AbstractContextManager[Session]]
) -> None:
    living, dead = uuid4(), [uuid4() for _ in range(2)]
    with opened(living), opened() as ours:
        kept = [leave(target, living), leave(target, living, name=FULL), leave(target, ATTEMPT)]
        gone = [leave(target, dead[0]), leave(target, dead[1], token=2**62, name=FULL)]
        assert set(drop_leftovers(ours)) == {f"safecopy.{name}" for name in gone}
        assert tables(target) == sorted(kept)
        assert drop_leftovers(ours) == ()


def test_a_run_lives_as_long_as_any_session_of_it_does(
    target: Database, opened: Callable[..., AbstractContextManager[Session]]
) -> None:
    attempt = uuid4()
    name = leave(target, attempt)
    with psycopg.connect(target.conninfo, application_name=format_application_name(attempt)), opened() as ours:
        assert drop_leftovers(ours) == ()
    with opened() as ours:
        assert drop_leftovers(ours) == (f"safecopy.{name}",)


def test_a_run_that_was_displaced_and_comes_back_to_find_that_out_loses_its_table_all_the_same(
    target: Database, opened: Callable[..., AbstractContextManager[Session]]
) -> None:
    attempt = uuid4()
    name = leave(target, attempt)
    with psycopg.connect(target.conninfo, application_name=format_application_name(attempt)), opened() as ours:
        assert drop_leftovers(ours, gone_attempts=[str(attempt)]) == (f"safecopy.{name}",)


def test_a_sweep_touches_only_what_is_named_and_placed_as_ours(
    target: Database, opened: Callable[..., AbstractContextManager[Session]]
) -> None:
    strangers = [
        'TABLE safecopy."고객__safecopy_7"',
        'TABLE safecopy."고객__safecopy_7_0123ABCD"',
        'TABLE safecopy."고객__safecopy_7_0123abcd_old"',
        'TABLE safecopy."고객__safecopy_x_0123abcd"',
        'TABLE public."고객__safecopy_7_0123abce"',
    ]
    for stranger in strangers:
        target.execute(f"CREATE {stranger} ()")
    target.execute('CREATE VIEW safecopy."보기__safecopy_7_0123abce" AS SELECT 1')
    before = tables(target)
    with opened(uuid4()) as ours:
        assert drop_leftovers(ours) == ()
    assert tables(target) == before
    assert target.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'safecopy' AND tablename = 'lock'") == 1


def test_a_table_somebody_is_looking_at_is_left_alone_for_now(
    target: Database, opened: Callable[..., AbstractContextManager[Session]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    held, free = leave(target, uuid4()), leave(target, uuid4())
    with target.connect() as reader, reader.transaction():
        reader.execute(f'TABLE safecopy."{held}"'.encode())
        with opened(uuid4()) as ours:
            assert drop_leftovers(ours) == (f"safecopy.{free}",)
            assert ours.fetch_value("SELECT 1") == 1
    assert f"safecopy.{held}: left alone" in caplog.text
    assert tables(target) == [held]


def test_a_sweep_leaves_to_others_what_is_theirs(
    target: Database, opened: Callable[..., AbstractContextManager[Session]], role: MakeRole
) -> None:
    name = leave(target, uuid4())
    loader = role(target)
    with target.connect() as session:
        lock.init(session, grant=loader.role)
    with opened(uuid4(), loader) as theirs:
        assert drop_leftovers(theirs) == ()
    assert tables(target) == [name]
    target.execute(f'ALTER TABLE safecopy."{name}" OWNER TO "{loader.role}"')
    with opened(uuid4(), loader) as theirs:
        assert drop_leftovers(theirs) == (f"safecopy.{name}",)


def test_without_the_schema_there_is_nothing_to_sweep(target: Database) -> None:
    with open_session(
        target.endpoint, application_name=format_application_name(ATTEMPT), connect_timeout=10
    ) as session:
        assert drop_leftovers(session) == ()


def test_a_copy_sweeps_before_it_stages(planned: CopyPlan, source: Database, target: Database) -> None:
    with target.connect() as session:
        lock.init(session)
    leave(target, uuid4())
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert tables(target) == []

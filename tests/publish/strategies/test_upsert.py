"""Upsert: rows are inserted or updated by key, and rows the source no longer has are kept, deleted or marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_safecopy.errors import PlanError, StageError, VerifyError
from airflow_provider_safecopy.report import WrittenRows
from tests.conftest import MakeRole
from tests.support.database import Database, Servers
from tests.support.pairs import NEW, OLD, Pair, counts

BOTH_MAJORS = pytest.mark.parametrize("own", [16, 18], indirect=True)
COLUMNS = "번호 int PRIMARY KEY, 값 text"
OLD_ROWS, NEW_ROWS = "(1, 'a'), (2, 'b'), (3, 'c')", "(2, 'b'), (3, 'C'), (4, 'd')"
UPSERT = {"write_mode": "upsert", "publish": "auto"}


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Database]:
    """One database for the whole file; of the newest major, unless a test asks for both."""
    made = servers.create(getattr(request, "param", 18), "UTF8", None)
    yield made
    servers.drop(made)


@pytest.fixture
def pair(own: Database, role: MakeRole) -> Iterator[Pair]:
    """Empty again for each test. `role` is asked for so that its roles go before the schema does."""
    own.execute('DROP SCHEMA IF EXISTS "자료" CASCADE; CREATE SCHEMA "자료"')
    yield Pair(own)
    for (name,) in own.rows("SELECT pubname FROM pg_publication"):
        own.execute(f'DROP PUBLICATION "{name}"')


def upserted(pair: Pair, **options: Any) -> WrittenRows:
    return pair.copy(**UPSERT | options)


def marked(pair: Pair, kind: str, **options: Any) -> WrittenRows:
    """With a column 없어짐 that says which rows are missing."""
    if not pair.plan(**UPSERT).target_relation.column("없어짐"):  # type: ignore[union-attr]
        pair.database.execute(f"ALTER TABLE {OLD} ADD 없어짐 {kind}")
    return upserted(pair, missing="mark", missing_column="없어짐", **options)


def rows(pair: Pair, columns: str = "*") -> list[tuple[Any, ...]]:
    return pair.database.rows(f"SELECT {columns} FROM {OLD} ORDER BY 1")


@BOTH_MAJORS
def test_rows_are_inserted_and_updated_and_others_stay(pair: Pair) -> None:
    pair.made(COLUMNS, old=OLD_ROWS, new=NEW_ROWS)
    places = pair.places("번호")
    written = upserted(pair)
    assert counts(written) == (1, 1, 0, 1)
    assert (written.previous_rows, written.current_rows) == (None, None)
    assert rows(pair) == [(1, "a"), (2, "b"), (3, "C"), (4, "d")]
    assert [number for number, place in places.items() if pair.places("번호")[number] == place] == [1, 2]
    with pair.unchanged():
        assert counts(upserted(pair)) == (0, 0, 0, 3)


def test_missing_rows_are_deleted_when_asked_for(pair: Pair) -> None:
    pair.made(COLUMNS, old=OLD_ROWS, new=NEW_ROWS)
    written = upserted(pair, missing="delete")
    assert pair.same()
    assert (counts(written), written.previous_rows, written.current_rows) == ((1, 1, 1, 1), 3, 3)


@pytest.mark.parametrize("missing", [{"missing": "delete"}, {"missing": "mark", "missing_column": "없어짐"}])
def test_an_empty_source_takes_no_row_for_missing_unless_that_is_meant(pair: Pair, missing: dict[str, Any]) -> None:
    pair.made(COLUMNS + ", 없어짐 boolean", old="(1, 'a'), (2, 'b')")
    pair.database.execute(f"ALTER TABLE {NEW} DROP 없어짐")
    columns = ["번호", "값"]
    assert [each.code for each in pair.plan(**UPSERT, **missing, columns=columns).refusals] == ["empty_source"]
    assert counts(upserted(pair, **missing, columns=columns, min_rows=0)) == (0, 0, 2, 0)
    assert counts(upserted(pair, columns=columns)) == (0, 0, 0, 0)


@BOTH_MAJORS
@pytest.mark.parametrize(
    "kind", ["timestamptz", "timestamp", "timestamp(0) with time zone", "boolean", "bool NOT NULL DEFAULT false"]
)
def test_missing_rows_are_marked_once_and_unmarked_when_they_are_back(pair: Pair, kind: str) -> None:
    pair.made(COLUMNS, old=OLD_ROWS, new=NEW_ROWS)
    is_marked = (
        "없어짐"
        if kind.startswith("bool")
        else "없어짐 IS NOT NULL AND 없어짐 BETWEEN LOCALTIMESTAMP - interval '5 min' AND LOCALTIMESTAMP + interval '1 s'"
    )
    pair.database.execute(f"ALTER DATABASE \"{pair.database.name}\" SET TimeZone = 'UTC'")
    written = marked(pair, kind)
    assert (counts(written), written.previous_rows, written.current_rows) == ((1, 1, 1, 1), 3, 4)
    assert rows(pair, f"번호, 값, COALESCE({is_marked}, false)") == [
        (1, "a", True),
        (2, "b", False),
        (3, "C", False),
        (4, "d", False),
    ]
    with pair.unchanged():
        assert counts(marked(pair, kind)) == (0, 0, 0, 3)
    pair.database.execute(f"DELETE FROM {NEW} WHERE 번호 = 2; INSERT INTO {NEW} VALUES (1, 'a')")
    assert counts(marked(pair, kind)) == (0, 1, 1, 2)
    assert rows(pair, f"번호, COALESCE({is_marked}, false)") == [(1, False), (2, True), (3, False), (4, False)]


def test_a_default_of_the_mark_does_not_mark_what_is_new(pair: Pair) -> None:
    pair.made(COLUMNS, new=NEW_ROWS)
    marked(pair, "timestamptz DEFAULT now()")
    assert rows(pair, "번호, 없어짐") == [(2, None), (3, None), (4, None)]


@pytest.mark.parametrize(
    "kind, problem",
    [
        (None, "does not exist"),
        ("date", "is date"),
        ("timestamptz NOT NULL DEFAULT now()", "may not be NULL"),
        ("boolean GENERATED ALWAYS AS (번호 > 1) STORED", "is generated"),
    ],
)
def test_a_mark_that_cannot_be_one_is_refused(pair: Pair, kind: str | None, problem: str) -> None:
    pair.made(COLUMNS, new=NEW_ROWS)
    if kind:
        pair.database.execute(f"ALTER TABLE {OLD} ADD 없어짐 {kind}")
    plan = pair.plan(**UPSERT, missing="mark", missing_column="없어짐")
    assert [(each.code, problem in each.message) for each in plan.refusals] == [("missing_column", True)]


@pytest.mark.parametrize("columns", [None, ["번호", "값", "없어짐"]])
def test_a_mark_that_is_copied_is_refused(pair: Pair, columns: list[str] | None) -> None:
    pair.made(COLUMNS + ", 없어짐 boolean", new="(1, 'a', true)")
    plan = pair.plan(**UPSERT, missing="mark", missing_column="없어짐", columns=columns)
    assert [each.code for each in plan.refusals] == ["missing_column"]


def test_a_table_that_names_no_row_is_refused(pair: Pair) -> None:
    pair.made("번호 int, 값 text", new=NEW_ROWS)
    assert [each.code for each in pair.plan(**UPSERT).refusals] == ["no_key"]
    assert [each.code for each in pair.plan(**UPSERT, key_columns=["번호"]).refusals] == ["key_not_unique"]
    pair.database.execute(f"ALTER TABLE {OLD} ALTER 번호 SET NOT NULL, ADD UNIQUE (번호)")
    assert counts(upserted(pair, key_columns=["번호"])) == (3, 0, 0, 0)


@BOTH_MAJORS
def test_it_takes_no_right_to_delete(pair: Pair, role: MakeRole) -> None:
    """Not even where rows exchange what must be unique, which it then does otherwise."""
    pair.made(COLUMNS, old=OLD_ROWS, new="(1, 'b'), (2, 'a'), (4, 'd')", also=f"ALTER TABLE {OLD} ADD UNIQUE (값)")
    assert counts(upserted(pair)) == (1, 2, 0, 0)
    pair.database.execute(f"UPDATE {NEW} SET 값 = CASE 번호 WHEN 1 THEN 'a' WHEN 2 THEN 'b' ELSE 값 END")
    own = role(pair.database)
    pair.database.execute(
        f'GRANT USAGE ON SCHEMA 자료 TO "{own.role}"; GRANT SELECT ON {NEW} TO "{own.role}";'
        f'GRANT SELECT, INSERT, UPDATE ON {OLD} TO "{own.role}"; GRANT USAGE, CREATE ON SCHEMA safecopy TO "{own.role}";'
        f'GRANT ALL ON ALL TABLES IN SCHEMA safecopy TO "{own.role}"; GRANT ALL ON ALL SEQUENCES IN SCHEMA safecopy TO "{own.role}"'
    )
    assert counts(upserted(pair, by=own)) == (0, 2, 0, 1)
    pair.database.execute(f'REVOKE UPDATE ON {OLD} FROM "{own.role}"; GRANT UPDATE (번호, 값) ON {OLD} TO "{own.role}"')
    with pytest.raises(PlanError, match="lacks UPDATE on the whole table"):
        upserted(pair, by=own)
    with pytest.raises(PlanError, match="lacks DELETE"):
        upserted(pair, by=own, missing="delete")


def test_missing_rows_that_are_referred_to_are_kept_and_marked_but_not_deleted(pair: Pair) -> None:
    pair.made(COLUMNS, old=OLD_ROWS, new=NEW_ROWS)
    pair.database.execute(
        f"CREATE TABLE 자료.자식 (부모 int REFERENCES {OLD} ON DELETE CASCADE); INSERT INTO 자료.자식 VALUES (1), (3)"
    )
    with pytest.raises(StageError, match=r"1 rows of 자료[.]자식 still refer"):
        upserted(pair, missing="delete")
    assert counts(marked(pair, "boolean")) == (1, 1, 1, 1)
    assert counts(upserted(pair, missing="keep", columns=["번호", "값"])) == (0, 0, 0, 3)
    assert pair.database.value("SELECT count(*) FROM 자료.자식") == 2


def test_a_key_that_comes_twice_is_refused(pair: Pair) -> None:
    pair.made(COLUMNS, old=OLD_ROWS, new="(1, 'x'), (1, 'y')")
    with pair.unchanged(), pytest.raises(VerifyError, match="1 of 2 rows"):
        upserted(pair)


def test_few_rows_are_looked_up_and_the_table_is_not_read(pair: Pair) -> None:
    """A slice of an incremental copy is small, and the table as long as history."""
    pair.made(COLUMNS, new="(7, 'neu'), (-1, 'new')")
    pair.database.execute(f"INSERT INTO {OLD} SELECT g, repeat('값', 50) FROM generate_series(1, 20000) g")
    pair.database.execute(f"VACUUM ANALYZE {OLD}; SELECT pg_stat_reset()".replace("VACUUM ANALYZE", "ANALYZE"))
    assert counts(upserted(pair)) == (1, 1, 0, 0)
    pair.database.value("SELECT pg_stat_force_next_flush()")
    assert pair.database.value(f"SELECT seq_scan FROM pg_stat_all_tables WHERE relid = '{OLD}'::regclass") == 0


def test_a_trigger_that_swallows_rows_is_noticed(pair: Pair) -> None:
    pair.made(COLUMNS, old=OLD_ROWS, new=NEW_ROWS)
    pair.database.execute(
        "CREATE FUNCTION 자료.방아쇠() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"
        f"CREATE TRIGGER 방아쇠 BEFORE UPDATE ON {OLD} FOR EACH ROW EXECUTE FUNCTION 자료.방아쇠()"
    )
    with pair.unchanged(), pytest.raises(VerifyError, match="1 new, 1 changed rows were to be written, 1 new were"):
        upserted(pair)


def test_a_publication_without_identity_allows_only_what_inserts(pair: Pair) -> None:
    pair.made("번호 int NOT NULL UNIQUE, 값 text", new=NEW_ROWS)
    pair.database.execute(f"CREATE PUBLICATION 구독 FOR TABLE {OLD} WITH (publish = 'insert, delete')")
    assert pair.plan(**UPSERT).refusals == ()
    assert [each.code for each in pair.plan(**UPSERT, missing="delete").refusals] == ["no_replica_identity"]

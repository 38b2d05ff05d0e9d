"""Likeness: the new table has the proven rows, and the definition and grants of the old one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, SafeCopyError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.strategies import swap
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.support.customers import OLD, SHAPE, TABLE, fill, spec
from tests.support.database import Database
from tests.support.fingerprint import differences, fingerprint
from tests.support.until import until

READS = f"SELECT count(*) FROM {TABLE}"
_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'granting' AND wait_event_type = 'Lock'
"""


@pytest.fixture(params=[16, 18])
def filled(request: pytest.FixtureRequest, database: MakeDatabase) -> tuple[Database, Database]:
    source, target = database(), database(major=request.param)
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 50)
    target.execute(OLD)
    return source, target


_RUN = swap._run


class _Granting(threading.Thread):
    """A session that grants or revokes; `done`: whether the server said so."""

    def __init__(self, target: Database, text: str) -> None:
        super().__init__()
        self._target, self._text = target, text
        self.done: bool | None = None

    def run(self) -> None:
        with self._target.connect() as session:
            session.execute("SET application_name = 'granting'")
            try:
                session.execute(self._text.encode())
            except psycopg.Error:
                self.done = False
            else:
                self.done = True

    def start(self) -> None:
        """Return when it is done, or waits for a lock."""
        super().start()
        until(lambda: self.done is not None or self._target.value(_WAITING))


def _with(act: Callable[[], None], *, at: int) -> Callable[[PublishContext, Sequence[str]], None]:
    """Run the statements of an exchange, and have something done before the one that is the `at`-th of all."""
    ran = 0

    def run(job: PublishContext, wanted: Sequence[str]) -> None:
        nonlocal ran
        here, ran = at - ran, ran + len(wanted)
        if 0 <= here < len(wanted):
            if here:
                _RUN(job, wanted[:here])
            act()
            wanted = wanted[here:]
        _RUN(job, wanted)

    return run


def _moments(source: Database, target: Database, mocker: MockerFixture) -> int:
    """How many statements an exchange has."""
    ran = mocker.patch.object(swap, "_run", side_effect=_RUN)
    pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    return sum(len(each.args[1]) for each in ran.call_args_list)


def on_new_tables(target: Database, change: str) -> None:
    """Do something to each table that is made from now on."""
    target.execute(
        f"""CREATE FUNCTION public.on_new() RETURNS event_trigger LANGUAGE plpgsql AS $$DECLARE made record; BEGIN
            FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' LOOP
                EXECUTE format({change!r}, made.objid::regclass); END LOOP; END$$;
        CREATE EVENT TRIGGER 새표 ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.on_new()"""
    )


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE %s ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE %s FORCE ROW LEVEL SECURITY",
        "CREATE POLICY 숨김 ON %s USING (false)",
        "ALTER TABLE %s ADD safecopy_extra int DEFAULT 7",
        "ALTER TABLE %s ADD CHECK (random() < 2)",
        "ALTER TABLE %s REPLICA IDENTITY FULL",
        "ALTER TABLE %s SET (fillfactor = 33)",
        "CREATE INDEX ON %s ((1))",
        "CREATE STATISTICS ON (1 + 1), (2 + 2) FROM %s",
        "CREATE TRIGGER 늦음 BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
)
def test_a_table_that_was_changed_while_it_was_made_is_not_published(
    filled: tuple[Database, Database], nothing_left: NothingLeft, change: str
) -> None:
    """An event trigger of the database may make of each new table something else than the target is."""
    source, target = filled
    with target.connect() as session:
        schema.init(session)
    on_new_tables(target, change)
    before, rows = fingerprint(target, "영업", "고객"), target.rows(f"TABLE {TABLE}")
    with pytest.raises(PlanError, match="swap_unlike") as caught:
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    assert not caught.value.retryable
    assert target.rows(f"TABLE {TABLE}") == rows
    report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert (report.publish, target.value(READS)) == ("delta", 50)
    assert any("event triggers: 새표" in reason for reason in report.reasons)
    assert differences(before, fingerprint(target, "영업", "고객")) == []
    nothing_left(source, target)


def test_columns_that_the_copy_itself_adds_are_no_difference(filled: tuple[Database, Database]) -> None:
    source, target = filled
    source.execute(f"ALTER TABLE {TABLE} ADD 적립금 int DEFAULT 5; COMMENT ON COLUMN {TABLE}.적립금 IS '쌓인 돈'")
    report = pipeline.copy(spec(publish="swap", drift="add_columns"), source.endpoint, target.endpoint)
    assert (report.publish, target.value(f"SELECT sum(적립금) FROM {TABLE}")) == ("swap", 250)


@pytest.mark.parametrize(
    "grant, has",
    [
        ("GRANT SELECT ON {table} TO {role}", "has_table_privilege({role!r}, {table!r}, 'SELECT')"),
        ("GRANT SELECT (이름) ON {table} TO {role}", "has_column_privilege({role!r}, {table!r}, '이름', 'SELECT')"),
        ("REVOKE INSERT ON {table} FROM {role}", "NOT has_table_privilege({role!r}, {table!r}, 'INSERT')"),
        (
            "REVOKE UPDATE (금액) ON {table} FROM {role}",
            "NOT has_column_privilege({role!r}, {table!r}, '금액', 'UPDATE')",
        ),
    ],
)
def test_no_grant_and_no_revoke_is_lost(
    filled: tuple[Database, Database], role: MakeRole, mocker: MockerFixture, grant: str, has: str
) -> None:
    """What is granted or revoked while the tables change places is in force afterwards, or its statement has failed.

    Neither of them locks a table before PostgreSQL 18; on a column it does not even touch the table's row of the catalog.
    """
    source, target = filled
    watcher = role(target).role or ""
    target.execute(f"GRANT INSERT ON {TABLE} TO {watcher}; GRANT UPDATE (금액) ON {TABLE} TO {watcher}")
    undo = f"""REVOKE ALL ON {TABLE} FROM {watcher}; REVOKE ALL (이름) ON {TABLE} FROM {watcher};
    GRANT INSERT ON {TABLE} TO {watcher}; GRANT UPDATE (금액) ON {TABLE} TO {watcher}"""
    text = grant.format(table=TABLE, role=watcher)
    outcomes = set()
    moments = _moments(source, target, mocker)
    for moment in [*range(0, moments, 2), moments - 1]:
        granting = _Granting(target, text)
        mocker.patch.object(swap, "_run", side_effect=_with(granting.start, at=moment))
        published = True
        try:
            pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
        except SafeCopyError as error:
            published = not error.retryable
        granting.join(100)
        assert target.value(f"SELECT {has.format(table=TABLE, role=watcher)}") == granting.done, (moment, published)
        outcomes.add((published, granting.done))
        target.execute(undo)
    # It came before the last look, and the swap gave way; or after it, and waited until its table was gone.
    assert (False, True) in outcomes or target.major >= 18
    assert outcomes & {(True, False), (True, True)}

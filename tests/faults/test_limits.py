"""A server at its limits: no disk, no connection left, read only since a failover, timeouts that suit nobody."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.errors import PlanError, SafeCopyError
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Progress
from tests.faults.trial import GRACE, QUICK, Strike, Trial, ended
from tests.support.database import Database
from tests.support.narrow import NarrowDisk
from tests.support.outage import Outage
from tests.support.place import place
from tests.support.proxy import Proxy

SIDES = ("source", "target")
ROLE, PASSWORD = "복사_담당", "Geheim-7"
_NEWEST = next(each for each in installations() if each.major == 18)
_SLOTS = 8
_SETTINGS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)


@pytest.fixture(scope="module")
def own(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """The same source, and a target on a server of this file's own, with few places."""
    few = {"max_connections": str(_SLOTS), "superuser_reserved_connections": "3"}
    with Server.start(_NEWEST, settings=few, place=place()) as server:
        server.execute("postgres", 'CREATE DATABASE "영업부"')
        target = Database(server, "영업부")
        spool = tmp_path_factory.mktemp("own") / "spool"
        yield trial.towards(target, spool)


@pytest.fixture(scope="module")
def narrow(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Trial, NarrowDisk]]:
    """The same source, and a target on a disk that is small and can be filled."""
    # Autovacuum would have sessions write a file of their own when they begin, for which a full disk has no room.
    with Server.start(_NEWEST, durable=False, settings={"autovacuum": "off"}) as server:
        disk = NarrowDisk.mounted(server)
        disk.create("좁은곳")
        yield trial.towards(Database(server, "좁은곳"), tmp_path_factory.mktemp("narrow") / "spool"), disk


@pytest.mark.parametrize("publish", ["swap", "delta"])
def test_a_disk_that_is_full_at_any_time_leaves_the_old_rows(narrow: tuple[Trial, NarrowDisk], publish: str) -> None:
    """It has room for a part of the copy, more each time: for staging, for an index, for the publish; at last for all."""
    trial, disk = narrow
    trial.reset()
    ends: list[CopyReport | SafeCopyError] = []
    for room in (0, 5, 9, 64):
        trial.target.execute("SELECT 1")  # a session that begins writes what the next ones read
        disk.fill(leaving=room)
        _, end = trial.judged(lambda: trial.copy(publish=publish, timeouts=QUICK), within=GRACE, heal=disk.clear)
        if isinstance(end, SafeCopyError):
            assert "space" in str(end), end
            assert end.retryable
        ends.append(end)
        trial.reset()
    assert isinstance(ends[0], SafeCopyError)
    assert isinstance(ends[-1], CopyReport)


@pytest.mark.parametrize("stage", ["export", "publish"])
def test_a_target_that_has_become_a_standby_is_not_written_to(own: Trial, stage: str) -> None:
    """A failover between the plan and the import, and before the publish; then the primary is back."""
    own.reset()
    outage = Outage(own.target.server)

    def fail_over() -> None:
        outage.down(by=signal.SIGINT)
        outage.up(standby=True)

    strike = Strike(fail_over)

    def heal() -> None:
        refused = ended(own.copy)
        assert isinstance(refused, PlanError)
        assert [each.code for each in refused.refusals] == ["read_only"]
        outage.promoted()

    held, end = own.judged(
        lambda: own.copy(progress=at(stage, strike), timeouts=QUICK), strike=strike, within=GRACE, heal=heal
    )
    assert isinstance(end, SafeCopyError)
    assert (held, end.retryable) == ("old", True), end


@pytest.mark.parametrize("stage", ["export", "publish"])
def test_a_database_set_to_read_only_meanwhile_keeps_a_copy_that_has_begun(trial: Trial, stage: str) -> None:
    """It is a default, and the copy's own transactions ask for what they need. The next copy is refused."""
    trial.reset()
    set_read_only = f'ALTER DATABASE "{trial.target.name}" SET default_transaction_read_only = on'
    strike = Strike(lambda: trial.target.server.execute("postgres", set_read_only))

    def heal() -> None:
        refused = ended(trial.copy)
        trial.target.server.execute("postgres", f'ALTER DATABASE "{trial.target.name}" RESET ALL')
        assert isinstance(refused, PlanError)
        assert [each.code for each in refused.refusals] == ["read_only"]

    _, end = trial.judged(lambda: trial.copy(progress=at(stage, strike)), heal=heal)
    assert isinstance(end, CopyReport)


@pytest.mark.parametrize("of", ["ROLE", "DATABASE"])
@pytest.mark.parametrize("side", SIDES)
def test_a_connection_limit_reached_at_any_connection_is_told(trial: Trial, side: str, of: str) -> None:
    """A copy needs several connections on each side: each of them is the one too many, in turn."""
    trial.reset()
    database = trial.side(side)
    named = ROLE if of == "ROLE" else database.name

    def limit(places: int) -> None:
        database.server.execute("postgres", f'ALTER {of} "{named}" CONNECTION LIMIT {places}')

    with ExitStack() as stack:
        as_role: dict[str, Any] = {side: stack.enter_context(colleague(database)).endpoint}
        stack.callback(limit, -1)
        for places in range(3 if side == "target" else 2):
            limit(places)
            held, end = trial.judged(
                lambda: trial.copy(**as_role, timeouts=QUICK),
                within=QUICK.connect + GRACE,
                heal=lambda: limit(-1),
                again=lambda: trial.copy(**as_role),
            )
            assert isinstance(end, SafeCopyError), places
            assert (held, end.retryable) == ("old", True), end
            assert "too many connections" in str(end)
            trial.reset()


def test_a_server_without_a_place_left_is_told(own: Trial) -> None:
    own.reset()
    with ExitStack() as stack:
        as_role: dict[str, Any] = {"target": stack.enter_context(colleague(own.target)).endpoint}
        for places in range(3):
            with ExitStack() as taken:
                for _ in range(_SLOTS - 3 - places):
                    taken.enter_context(psycopg.connect(own.target.server.conninfo()))
                held, end = own.judged(
                    lambda: own.copy(**as_role, timeouts=QUICK),
                    within=QUICK.connect + GRACE,
                    heal=taken.close,
                    again=lambda: own.copy(**as_role),
                )
            assert isinstance(end, SafeCopyError), places
            assert (held, end.retryable) == ("old", True), end
            assert "remaining connection slots" in str(end)
            own.reset()


@pytest.mark.parametrize("of", ["DATABASE", "ROLE"])
def test_timeouts_of_a_database_or_role_do_not_cut_a_slow_copy(trial: Trial, of: str) -> None:
    """Both servers' every timeout is shorter than the export and the import take."""
    trial.reset()
    wires = {side: Proxy.before("127.0.0.1", trial.side(side).server.port) for side in SIDES}

    def slow(at: Progress) -> None:
        for side, stage in (("source", "export"), ("target", "import")):
            if at.stage == stage:
                wires[side].drip(16_000)
        if at.stage == "verify":
            wires["target"].mend()

    try:
        ways = {side: trial.through(wires[side], side)[side] for side in SIDES}
        set_all(trial, of, "150ms")
        end = ended(lambda: trial.copy(**ways, progress=slow, transfer="sequential"))
    finally:
        set_all(trial, of, None)
        for wire in wires.values():
            wire.close()
    assert isinstance(end, CopyReport), end
    took = {stage.stage: stage.seconds for stage in end.stages}
    assert min(took["export"], took["import"]) > 0.3


@pytest.mark.parametrize("setting", _SETTINGS)
def test_a_timeout_of_a_millisecond_fails_the_copy_clearly_or_not_at_all(trial: Trial, setting: str) -> None:
    """Too short to be put aside: a session's first statement may be cut already."""
    trial.reset()

    def run() -> CopyReport:
        set_all(trial, "DATABASE", "1ms", only=setting)
        return trial.copy(timeouts=QUICK)

    _, end = trial.judged(run, within=QUICK.connect + GRACE, heal=lambda: set_all(trial, "DATABASE", None))
    if isinstance(end, SafeCopyError):
        assert end.retryable, end


def at(stage: str, strike: Strike) -> Callable[[Progress], None]:
    """Strike when the copy first tells of a stage."""

    def tell(progress: Progress) -> None:
        if progress.stage == stage and strike.at is None:
            strike()

    return tell


@contextmanager
def colleague(database: Database) -> Iterator[Database]:
    """A role that is no superuser: those pass every limit. It owns what it is to copy."""
    database.execute(f"CREATE ROLE \"{ROLE}\" LOGIN PASSWORD '{PASSWORD}'")
    give = 'ALTER SCHEMA "영업" OWNER TO "{0}"; ALTER TABLE "영업"."고객" OWNER TO "{0}"'
    database.execute(give.format(ROLE) + f'; GRANT CREATE ON DATABASE "{database.name}" TO "{ROLE}"')
    try:
        yield database.as_role(ROLE, PASSWORD)
    finally:
        database.execute(f'REASSIGN OWNED BY "{ROLE}" TO postgres; DROP OWNED BY "{ROLE}"; DROP ROLE "{ROLE}"')


def set_all(trial: Trial, of: str, value: str | None, *, only: str | None = None) -> None:
    """Set the timeouts of both databases, or of the role in them, that their servers know; None: reset."""
    for database in (trial.source, trial.target):
        whose = f'DATABASE "{database.name}"' if of == "DATABASE" else f'ROLE postgres IN DATABASE "{database.name}"'
        if value is None:
            database.server.execute("postgres", f"ALTER {whose} RESET ALL")
            continue
        for setting in _SETTINGS if only is None else (only,):
            if setting != "transaction_timeout" or database.major >= 17:
                database.server.execute("postgres", f"ALTER {whose} SET {setting} = '{value}'")

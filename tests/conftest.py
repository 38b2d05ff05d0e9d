"""What every room's tests share."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from airflow_provider_safecopy.demo.servers import installations
from tests.support.customers import OLD, SHAPE, fill
from tests.support.database import Database, Servers
from tests.support.fake_psql import Behaviour, write
from tests.support.proxy import Proxy
from tests.support.remains import Remains
from tests.support.selection import mark_slow_cases

_BARE = settings.get_profile("default")
# What fails in the suite fails again: the same examples of the same sources each time, and no clock has a say.
settings.register_profile(
    "suite",
    parent=_BARE,
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# `make fuzz` looks longer, and elsewhere each time: --hypothesis-profile=deep.
settings.register_profile("deep", parent=_BARE, derandomize=False, max_examples=500, print_blob=True)
# `make test` tries few examples of each property; `make test-all` tries as many as Hypothesis would.
settings.register_profile("quick", parent=settings.get_profile("suite"), max_examples=10)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Decide which cases are slow before pytest selects by marker."""
    mark_slow_cases(items)


class MakeDatabase(Protocol):
    """The type of the fixture `database`."""

    def __call__(self, *, major: int = 18, encoding: str = "UTF8", locale: str | None = None) -> Database: ...


class MakeRole(Protocol):
    """The type of the fixture `role`."""

    def __call__(self, database: Database, attributes: str = "LOGIN") -> Database: ...


class MakePsql(Protocol):
    """The type of the fixture `fake_psql`."""

    def __call__(self, behaviour: Behaviour) -> str: ...


class NothingLeft(Protocol):
    """The type of the fixture `nothing_left`."""

    def __call__(self, *databases: Database, spool: Path | None = None, seconds: float = 20.0) -> None: ...


@pytest.fixture(scope="session")
def psql() -> str:
    """The newest psql of this machine: the one every copy of the suite uses unless a test names another."""
    return str(installations()[0].psql)


@pytest.fixture(scope="session", autouse=True)
def _bare_environment(psql: str) -> Iterator[None]:
    """No PG* variable of the person who runs the suite has a say in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PG", "SAFECOPY_"))]:
            patch.delenv(name)
        patch.setenv("SAFECOPY_PSQL", psql)
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals_that_arrive() -> None:
    """A suite started in the background (``make test &``, nohup) inherits them ignored, and so would all it starts."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The suite's servers, started when first asked for."""
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture
def database(servers: Servers) -> Iterator[MakeDatabase]:
    """Make databases: ``database(major=16)``, ``database(encoding="EUC_KR", locale="C")``. Gone after the test."""
    made: list[Database] = []

    def make(*, major: int = 18, encoding: str = "UTF8", locale: str | None = None) -> Database:
        made.append(servers.create(major, encoding, locale))
        return made[-1]

    yield make
    for database in made:
        servers.drop(database)


@pytest.fixture
def _majors(request: pytest.FixtureRequest) -> tuple[int, int]:
    """The majors of source and target: ``@pytest.mark.pair(16, 18)``; without it, from the older to the newer."""
    marker = request.node.get_closest_marker("pair")
    source, target = marker.args if marker else (16, 18)
    return source, target


@pytest.fixture
def source(database: MakeDatabase, _majors: tuple[int, int]) -> Database:
    """An empty database to copy from."""
    return database(major=_majors[0])


@pytest.fixture
def target(database: MakeDatabase, _majors: tuple[int, int]) -> Database:
    """An empty database to copy to, on another server than `source` unless the marker says otherwise."""
    return database(major=_majors[1])


@pytest.fixture
def filled(source: Database, target: Database) -> tuple[Database, Database]:
    """A source of 2,000 customers and a target that holds two old ones."""
    for database in (source, target):
        database.execute(SHAPE)
    fill(source, 2000)
    target.execute(OLD)
    return source, target


@pytest.fixture
def role(servers: Servers, database: MakeDatabase) -> Iterator[MakeRole]:
    """Make roles, gone before their databases are: ``role(target)`` is the target as a new role without rights sees it."""
    made: list[Database] = []

    def make(database: Database, attributes: str = "LOGIN") -> Database:
        name, password = f"역할_{secrets.token_hex(4)}", secrets.token_hex(8)
        database.execute(f"CREATE ROLE \"{name}\" {attributes} PASSWORD '{password}'")
        made.append(database.as_role(name, password))
        return made[-1]

    yield make
    for each in made:
        owner = Database(each.server, each.name)
        owner.execute(f'DROP OWNED BY "{each.role}" CASCADE')
        owner.execute(f'DROP ROLE "{each.role}"')


@pytest.fixture
def fake_psql(tmp_path: Path, psql: str) -> MakePsql:
    """Make a psql that misbehaves: ``fake_psql(Behaviour(stage="export", die_after=4096))`` is its path."""

    def make(behaviour: Behaviour) -> str:
        return str(write(tmp_path, psql, behaviour))

    return make


@pytest.fixture
def proxy() -> Iterator[Callable[[Database], Proxy]]:
    """Make proxies before databases: ``wire = proxy(target)``, then ``target.through(wire.port)``."""
    made: list[Proxy] = []

    def make(database: Database) -> Proxy:
        made.append(Proxy.before("127.0.0.1", database.server.port))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def nothing_left() -> NothingLeft:
    """Call it last: it fails unless sessions, staging tables, psql processes and temporary files are gone."""
    return Remains().check

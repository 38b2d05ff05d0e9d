"""The grounds of the one exam that all stores pass: a store, rivals of it, and a clock that the test moves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol
from uuid import UUID

import pytest

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.file_store import FileStore, read_boot_clock
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.lock.store import Store
from tests.conftest import MakeDatabase
from tests.lock.world import MovableClock
from tests.support.database import Database
from tests.support.until import until

HOLD = """
import sys
from pathlib import Path
from airflow_provider_safecopy.lock.living_lock import LivingLock
kind, where, name = (sys.stdin.readline().rstrip("\\n") for _ in range(3))
with LivingLock(name, Path(where) if kind == "file" else where):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""


class Ground(Protocol):
    """One store's."""

    kind: str
    where: str

    def store(self, attempt: UUID | None = None) -> Store:
        """A store of its own: another connection, another instance. `attempt` is whose it is."""

    def move(self, seconds: float) -> None:
        """Move the stores' clock ahead."""

    def vanish(self, store: Store, attempt: UUID) -> None:
        """End what says that the attempt, which used this store, lives; its process does not end."""


class PostgresGround:
    kind = "postgres"

    def __init__(self, database: Database, stack: ExitStack) -> None:
        self.database, self.where = database, database.conninfo
        self._clock, self._stack = MovableClock(sql.load("lock")), stack

    def store(self, attempt: UUID | None = None) -> PostgresStore:
        store = PostgresStore(self.database.endpoint, attempt=attempt, statements=self._clock)
        self._stack.callback(store.close)
        return store

    def move(self, seconds: float) -> None:
        self._clock.seconds += round(seconds)

    def vanish(self, store: Store, attempt: UUID) -> None:
        store.close()
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        until(lambda: self.database.value(left, [f"safecopy:{attempt}"]) == 0)


class FileGround:
    kind = "file"

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory, self.where = directory, str(directory)
        self._ahead, self._stack = 0.0, stack

    def store(self, attempt: UUID | None = None) -> FileStore:  # noqa: ARG002 -- its flock says whose it is
        store = FileStore(self.directory, clock=lambda: read_boot_clock() + self._ahead)
        self._stack.callback(store.close)
        return store

    def move(self, seconds: float) -> None:
        self._ahead += seconds

    def vanish(self, store: Store, attempt: UUID) -> None:  # noqa: ARG002 -- as above
        store.close()


@pytest.fixture(params=["postgres", "file"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """Of each store in turn."""
    with ExitStack() as stack:
        if request.param == "file":
            yield FileGround(tmp_path / "잠금", stack)
            return
        make: MakeDatabase = request.getfixturevalue("database")
        database = make()
        with database.connect() as session:
            schema.init(session)
        yield PostgresGround(database, stack)


@pytest.fixture
def store(ground: Ground) -> Store:
    """The holder's."""
    return ground.store()


@pytest.fixture
def rival(ground: Ground) -> Store:
    """Somebody else's."""
    return ground.store()


Hold = Callable[[Ground, str], "subprocess.Popen[bytes]"]


@pytest.fixture
def holding() -> Iterator[Hold]:
    """Start real processes that hold a lock until they get a line, or are killed: ``holding(ground, name)``."""
    started: list[subprocess.Popen[bytes]] = []

    def hold(ground: Ground, name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{ground.kind}\n{ground.where}\n{name}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()

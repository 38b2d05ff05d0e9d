"""Where the soak is made: two servers of its own, which it may crash, and on each a database for one purpose."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from airflow_provider_safecopy.demo.servers import Server, installations
from tests.support.database import Database
from tests.support.outage import Outage

Side = Literal["source", "target"]
SIDES: tuple[Side, ...] = get_args(Side)
MAJORS: Mapping[Side, int] = {"source": 16, "target": 18}

# What the operating system was told survives a crash of the server: no fsync is needed, but every COMMIT must be told.
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "track_commit_timestamp": "on"}


class Host:
    """A server that can be crashed, and started again where it was."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._outage = Outage(server)

    @classmethod
    def start_new(cls, major: int) -> Host:
        (installation,) = (each for each in installations() if each.major == major)
        return cls(Server.start(installation, settings=_SETTINGS))

    def crash(self) -> None:
        """An immediate shutdown: sessions are cut off, nothing is written down, the next start recovers."""
        self._outage.down()

    def start(self) -> None:
        """On the same port. Does nothing where it runs."""
        process = self.server._process
        if process is None or process.poll() is not None:
            self._outage.up()


@dataclass(frozen=True)
class Hosts:
    """The two servers."""

    by_side: Mapping[Side, Host]

    @classmethod
    def start(cls) -> Hosts:
        return cls({side: Host.start_new(major) for side, major in MAJORS.items()})

    def stop(self) -> None:
        for host in self.by_side.values():
            host.server.stop()

    def pair(self, purpose: str) -> dict[Side, Database]:
        """An empty database on each."""
        name = f"{purpose}_{secrets.token_hex(4)}"
        for host in self.by_side.values():
            host.server.execute("postgres", f'CREATE DATABASE "{name}" TEMPLATE template0')
        return {side: Database(host.server, name) for side, host in self.by_side.items()}


def drop(pair: Mapping[Side, Database]) -> None:
    """Drop a pair of databases, whoever is in them."""
    for database in pair.values():
        database.server.execute("postgres", f'DROP DATABASE "{database.name}" WITH (FORCE)')


def draw_lanes(publish: str, dice: random.Random, choices: Sequence[int]) -> int:
    """Return how many lanes a copy gets that publishes so. A swap has one: with more it is refused."""
    drawn = dice.choice(choices)
    return 1 if publish == "swap" else drawn

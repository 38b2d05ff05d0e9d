"""Where the race is run: a database with a few locks, a small target table behind each, and a ledger of publishes.

What a race proves is read from here afterwards: the server keeps the time of every commit
(`track_commit_timestamp`), and the ledger is written by the very transactions that publish.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from airflow_provider_safecopy.demo.servers import Server
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.postgres.endpoint import Endpoint

SETTINGS = {
    "track_commit_timestamp": "on",
    # Below the lock timeout of the store, so that a deadlock is told as one and not hidden by a timeout.
    "deadlock_timeout": "50ms",
    "autovacuum_naptime": "5s",
    "log_min_error_statement": "panic",
}
NAMES = ("분석.고객", "분석.매출", "분석.주문 내역", "분석.재고")
MEMBERS = ("고객_복사", "주문_복사")
"""Each member of a run publishes its own part of a table, as the tasks of a DAG run copy each its own table."""
ROWS = 5
"""Rows of one publish: fewer or more seen of one part are a mixture."""

_SHAPE = """
CREATE SCHEMA "분석";
CREATE SCHEMA race;
CREATE TABLE race.ledger (
    mark uuid, name text, token bigint, member text, attempt uuid, lingers float8,
    fenced_at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (mark, name));
CREATE FUNCTION race.linger() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(NEW.lingers); RETURN NULL; END';
-- Some commits take their time, so that clients die and stop while theirs is under way.
CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON race.ledger DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.lingers > 0) EXECUTE FUNCTION race.linger();
GRANT USAGE ON SCHEMA "분석", race TO PUBLIC;
GRANT SELECT, INSERT ON race.ledger TO PUBLIC;
"""
_TARGET = """
CREATE TABLE {0} (part text, n int, token bigint, mark uuid);
GRANT SELECT, INSERT, DELETE ON {0} TO PUBLIC;
"""


def table(name: str) -> sql.Identifier:
    """The table that a lock guards."""
    return sql.Identifier(*name.split("."))


@dataclass(frozen=True)
class Course:
    """One database made ready. `racers` are who takes part: a role that may end anybody's session, and one that may
    only end its own, as a takeover meets both.
    """

    owner: Endpoint
    racers: tuple[Endpoint, ...]
    seed: int
    names: tuple[str, ...] = field(default=NAMES)

    @classmethod
    def lay(cls, server: Server, seed: int) -> Course:
        """A new database of a server that runs with `SETTINGS`."""
        unique = secrets.token_hex(4)
        server.execute("postgres", f'CREATE DATABASE "경주_{unique}"')
        conninfo = server.conninfo(f"경주_{unique}")
        owner = Endpoint.from_conninfo(conninfo)
        roles = [f"판정_{unique}", f"참가_{unique}"]
        with owner.connect(application_name="race", connect_timeout=10) as session:
            session.execute(_SHAPE.encode())
            for name in NAMES:
                session.execute(sql.SQL(_TARGET).format(table(name)))
            for role in roles:
                session.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'race'".encode())
                schema.init(session, grant=role)
            session.execute(f'GRANT pg_signal_backend TO "{roles[0]}"'.encode())
        racers = [Endpoint.from_conninfo(make_conninfo(conninfo, user=role, password="race")) for role in roles]
        return cls(owner, tuple(racers), seed)

    def connect(self) -> psycopg.Connection:
        """A session of the one who looks on."""
        return self.owner.connect(application_name="race", connect_timeout=10)

"""Section `peers`: other tools, on a smaller table, with the raw pipes and ours beside.

`postgres_fdw` is an extension, which the servers of the other sections lack: it is measured on servers of the
distribution's own, where those are installed, beside pipes and ours on the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from airflow_provider_safecopy.demo.servers import installations
from benchmarks import data, pair
from benchmarks.contestant import CHUNKED, RAW_BINARY, RAW_TEXT, Contestant, ours, raw
from benchmarks.measure import FailedError
from benchmarks.peer import FAST, SLOW, Find, generic_transfer, has_extension, postgres_fdw
from benchmarks.rounds import WrongError, alternate, once
from benchmarks.session import Session
from benchmarks.shelf import MissingError, Shelf, brief

SECTION = "peers"
_TABLE = "like-lineitem"
MOST_ROUNDS = 3
LARGER, SMALLER = 5, 10
"""Tools that are nearly as fast as the pipes are given a table so many times larger; Airflow's operator, which takes rows
one by one, one so many times smaller. All are beside the pipes, and ours, on the very same table."""

SLOWEST: dict[str, Find] = {"GenericTransfer": generic_transfer}
EXTENSION: dict[str, Find] = {"postgres_fdw": postgres_fdw}
NAMES = (*FAST, *SLOW, *SLOWEST, *EXTENSION)
_OURS = (raw(RAW_TEXT, "text"), raw(RAW_BINARY, "binary"), ours(CHUNKED, "--transfer", "chunked"))


def run(session: Session) -> None:
    """All that can be had here; what cannot is noted, with the reason."""
    size = session.options.peer_size
    large, small = size * LARGER, size // SMALLER
    _measure(session, session.pair, FAST, large, _told(large))
    _measure(session, session.pair, SLOW, size, _told(size))
    _measure(session, session.pair, SLOWEST, small, _told(small))
    if _chosen(session, EXTENSION):
        with _with_extensions() as servers:
            if servers is None:
                session.note(SECTION, "postgres_fdw: not measured: no installed PostgreSQL has the extension")
            else:
                _measure(session, servers, EXTENSION, large, f"{_told(large)}, PostgreSQL {servers.installation.major}")


def _told(size: int) -> str:
    return f"{_TABLE} of {size / 1e6:.0f} MB"


def _chosen(session: Session, finds: dict[str, Find]) -> dict[str, Find]:
    peers = session.options.peers
    return {name: find for name, find in finds.items() if peers is None or name in peers}


def _measure(session: Session, servers: pair.Pair, finds: dict[str, Find], size: int, told: str) -> None:
    found = _found(session, servers, _chosen(session, finds))
    if not found:
        return
    made = data.make(servers, _TABLE, size)
    if "postgres_fdw" in finds:
        _link(servers, made)
    able = []
    for each in found:
        if _works(session, servers, made, each):
            able.append(each)
        else:
            made = data.make(servers, _TABLE, size)
    runs = alternate(
        servers,
        made,
        (*_OURS, *able),
        section=SECTION,
        rounds=min(MOST_ROUNDS, session.options.rounds),
        progress=session.progress,
        warm_up=(RAW_TEXT, CHUNKED),
        table=told,
    )
    session.results.put(runs)
    session.save()
    data.drop(servers, made)


def _found(session: Session, servers: pair.Pair, finds: dict[str, Find]) -> list[Contestant]:
    kept, there = Shelf(session.options.peer_cache), []
    for name, find in finds.items():
        session.progress.say(f"{SECTION}: looking for {name}")
        try:
            peer = find(kept, servers.installation.bin)
        except MissingError as error:
            session.note(SECTION, f"{name} did not install: {error}")
        else:
            session.results.about.setdefault("versions", {})[peer.contestant.name] = peer.version
            there.append(peer.contestant)
            if peer.note:
                session.note(SECTION, f"{peer.contestant.name}: {peer.note}")
    return there


def _works(session: Session, servers: pair.Pair, made: data.Data, contestant: Contestant) -> bool:
    """Whether it does the job at all; the first time warms it up as well."""
    try:
        once(servers, made, contestant)
    except (FailedError, WrongError) as error:
        session.note(SECTION, f"{contestant.name} did not do it: {brief(str(error))}")
        return False
    return True


@contextmanager
def _with_extensions() -> Iterator[pair.Pair | None]:
    """Servers that have `postgres_fdw`, as the newest installation with it makes them."""
    able = [each for each in installations() if has_extension(each.bin, "postgres_fdw")]
    if not able:
        yield None
        return
    with pair.running(able[0]) as servers:
        yield servers


def _link(servers: pair.Pair, made: data.Data) -> None:
    """The source's table, seen from the target as `elsewhere."..."`."""
    source = conninfo_to_dict(servers.conninfos()[0])
    link = sql.SQL("""
        CREATE EXTENSION IF NOT EXISTS postgres_fdw;
        CREATE SERVER source FOREIGN DATA WRAPPER postgres_fdw
          OPTIONS (host {host}, port {port}, dbname {dbname}, fetch_size '10000');
        CREATE USER MAPPING FOR CURRENT_USER SERVER source OPTIONS (user {user}, password {password});
        CREATE SCHEMA elsewhere;
        IMPORT FOREIGN SCHEMA public LIMIT TO ({table}) FROM SERVER source INTO elsewhere""")
    words = {name: sql.Literal(str(source[name])) for name in ("host", "port", "dbname", "user", "password")}
    linked = link.format(table=sql.Identifier(made.name), **words)
    servers.target.execute(servers.database, linked.as_string())

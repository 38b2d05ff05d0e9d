"""The proxy passes, stalls, cuts, and loses the answer to a COMMIT that has happened."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest

from tests.support.database import Database
from tests.support.proxy import Proxy
from tests.support.until import until

MakeProxy = Callable[[Database], Proxy]


def test_it_passes_a_great_deal_both_ways(target: Database, proxy: MakeProxy) -> None:
    reached = target.through(proxy(target).port)
    target.execute("CREATE TABLE 큰 (값 text)")
    line = b"x" * 999 + b"\n"
    with reached.connect() as session:
        with session.cursor().copy("COPY 큰 FROM STDIN") as copy:
            for _ in range(20_000):
                copy.write(line)
        with session.cursor().copy("COPY 큰 TO STDOUT") as copy:
            assert sum(len(data) for data in copy) == 20_000 * len(line)


def test_a_cut_resets_and_refuses_until_it_is_mended(target: Database, proxy: MakeProxy) -> None:
    wire = proxy(target)
    reached = target.through(wire.port)
    session = reached.connect()
    wire.cut()
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        reached.connect()
    wire.mend()
    assert reached.value("SELECT 1") == 1
    session.close()


def test_a_stall_passes_nothing_and_closes_nothing(target: Database, proxy: MakeProxy) -> None:
    wire = proxy(target)
    with target.through(wire.port).connect() as session:
        wire.stall()
        session.pgconn.send_query(b"SELECT 1")
        assert select.select([session], [], [], 0.5)[0] == []
        wire.mend()
        assert select.select([session], [], [], 10)[0] == [session]
        assert session.pgconn.get_result() is not None
        assert session.pgconn.get_result() is None


@pytest.mark.parametrize("lost", ["answer", "request"])
def test_a_commit_whose_answer_or_request_is_lost(target: Database, proxy: MakeProxy, lost: str) -> None:
    target.execute("CREATE TABLE 고객 (번호 int)")
    wire = proxy(target)
    session = target.through(wire.port).connect()
    session.execute("BEGIN")
    session.execute("INSERT INTO 고객 VALUES (1)")
    (wire.lose_answer_after if lost == "answer" else wire.cut_before)(b"COMMIT")
    assert not wire.met.is_set()
    with pytest.raises(psycopg.OperationalError):
        session.execute("COMMIT")
    assert wire.met.wait(10)  # the client may learn of it before the proxy's thread goes on
    assert target.value("SELECT count(*) FROM 고객") == (1 if lost == "answer" else 0)
    session.close()


@pytest.mark.parametrize("what", ["pass", "cut", "stall", "lose"])
def test_a_client_is_met_at_its_step_before_the_server_hears_of_it(
    target: Database, proxy: MakeProxy, what: str
) -> None:
    target.execute("CREATE TABLE 고객 (번호 int)")
    wire = proxy(target)
    session = target.through(wire.port).connect()
    session.execute("SELECT 1")
    seen: list[int] = []
    ways: dict[str, Callable[[], object]] = {
        "pass": int,
        "cut": wire.cut_now,
        "stall": wire.stall_now,
        "lose": wire.lose_answer_now,
    }
    then = ways[what]

    def do() -> None:
        seen.append(target.value("SELECT count(*) FROM 고객"))
        then()

    wire.at_step(wire.steps + 1, do)
    asked = "INSERT INTO 고객 VALUES (1)"
    if what == "stall":
        session.pgconn.send_query(asked.encode())
        assert wire.met.wait(10)
        assert select.select([session], [], [], 0.2)[0] == []
    elif what == "pass":
        session.execute(asked)
    else:
        with pytest.raises(psycopg.OperationalError):
            session.execute(asked)
    assert seen == [0]
    assert target.value("SELECT count(*) FROM 고객") == (1 if what in {"pass", "lose"} else 0)
    session.close()


def test_what_was_asked_at_a_step_arrives_though_all_is_cleared_away_meanwhile(
    target: Database, proxy: MakeProxy
) -> None:
    """As when a process is killed as it has sent its COMMIT, and the test that did it ends."""
    target.execute("CREATE TABLE 고객 (번호 int)")
    wire = proxy(target)
    session = target.through(wire.port).connect()
    closing = threading.Thread(target=wire.close)

    def do() -> None:
        closing.start()
        until(lambda: wire._orders)

    wire.at_step(wire.steps + 1, do)
    with suppress(psycopg.OperationalError):  # whether the answer comes through is another matter
        session.execute("INSERT INTO 고객 VALUES (1)")
    closing.join()
    session.close()
    until(lambda: target.value("SELECT count(*) FROM 고객"))


def test_a_drip_is_slow_and_loses_nothing(target: Database, proxy: MakeProxy) -> None:
    wire = proxy(target)
    with target.through(wire.port).connect() as session:
        wire.drip(10_000)
        began = time.monotonic()
        assert session.execute("SELECT repeat('가', 2000)").fetchall() == [("가" * 2000,)]
        assert time.monotonic() - began > 0.4
        wire.mend()


def test_a_late_server_is_silent_at_first(target: Database, proxy: MakeProxy) -> None:
    wire = proxy(target)
    wire.late(0.3)
    began = time.monotonic()
    assert target.through(wire.port).value("SELECT 1") == 1
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("what", ["half-open", "orphan", "reset"])
def test_a_side_may_be_gone_without_the_others_being_told(target: Database, proxy: MakeProxy, what: str) -> None:
    wire = proxy(target)
    session = target.through(wire.port).connect()
    backend = session.info.backend_pid
    do = {"half-open": wire.half_open_now, "orphan": wire.orphan_now, "reset": wire.reset_now}[what]
    wire.at_message(b"SELECT 1", do)
    session.pgconn.send_query(b"SELECT 1")
    assert wire.met.wait(10)
    assert bool(select.select([session], [], [], 0.2)[0]) == (what != "half-open")
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s"
    deadline = time.monotonic() + 10
    while target.value(gone, [backend]) == (what == "orphan"):
        assert time.monotonic() < deadline
    assert target.through(wire.port).value("SELECT 2") == 2, "new connections are taken"
    session.close()


def test_it_outlives_its_server() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        wire = Proxy.before("127.0.0.1", nobody.getsockname()[1])
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", wire.port)) as client, pytest.raises(ConnectionResetError):
                client.recv(1)
        wire.close()

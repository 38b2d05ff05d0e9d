"""The proxy passes, stalls, cuts, and loses the answer to a COMMIT that has happened."""

from __future__ import annotations

import select
from collections.abc import Callable

import psycopg
import pytest

from tests.ground.database import Database
from tests.ground.proxy import Proxy

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
    assert wire.met.is_set()
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
    then = {"pass": int, "cut": wire.cut_now, "stall": wire.stall_now, "lose": wire.lose_answer_now}[what]

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

"""A server crashes, at any step of the line, and comes back or does not: old or new, and told which."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.errors import PublishUnknownError, SafeCopyError, StageError
from airflow_provider_safecopy.publish import transaction
from airflow_provider_safecopy.report import CopyReport
from tests.faults.trial import GRACE, QUICK, Strike, Trial, each_step, sampled, steps_of
from tests.support.database import Database
from tests.support.outage import Outage
from tests.support.place import place
from tests.support.proxy import Proxy

RECEIPT, COMMIT = b"INSERT INTO safecopy.receipt", b"COMMIT\0"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Two servers of this file's own, as durable as in production but for a power cut, with one database each."""
    major = {each.major: each for each in installations()}
    with Server.start(major[16], place=place()) as source, Server.start(major[18], place=place()) as target:
        for server in (source, target):
            server.execute("postgres", 'CREATE DATABASE "영업부"')
        spool = tmp_path_factory.mktemp("crash") / "spool"
        yield Trial.prepared(Database(source, "영업부"), Database(target, "영업부"), spool)


@pytest.fixture
def target_wire(trial: Trial) -> Iterator[Proxy]:
    trial.reset()
    proxy = Proxy.before("127.0.0.1", trial.target.server.port)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_that_restarts_at_any_step_fails_the_copy_or_not_at_all(trial: Trial, side: str) -> None:
    trial.reset()
    wire = Proxy.before("127.0.0.1", trial.side(side).server.port)
    try:
        steps = sampled(steps_of(wire, trial, side), 2, turn=1)
        outage = Outage(trial.side(side).server)
        for step, strike, run in each_step(trial, wire, side, outage.again, steps=steps, timeouts=QUICK):
            _, end = trial.judged(run, strike=strike, within=QUICK.connect + GRACE)
            if isinstance(end, SafeCopyError):
                assert end.retryable, f"at step {step}: {end}"
    finally:
        wire.close()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_that_stays_down_is_told_in_time(trial: Trial, side: str) -> None:
    trial.reset()
    outage = Outage(trial.side(side).server)
    strike = Strike(outage.down)
    wire = Proxy.before("127.0.0.1", trial.side(side).server.port)
    try:
        wire.at_message(b"COPY ", once(strike))
        held, end = trial.judged(
            lambda: trial.copy(**trial.through(wire, side), timeouts=QUICK),
            strike=strike,
            within=QUICK.connect + GRACE,
            heal=outage.up,
        )
    finally:
        wire.close()
    assert isinstance(end, StageError)
    assert (held, end.stage, end.retryable) == ("old", "export" if side == "source" else "import", True)


def struck_before_commit(trial: Trial, wire: Proxy, publish: str, harm: Callable[[int], object]) -> StageError:
    """`harm` is done to the backend as its COMMIT comes, and the server recovers: the old rows, and worth a retry."""
    outage = Outage(trial.target.server)
    strike = Strike(lambda: harm(outage.writer(trial.target.name)))
    at_commit(wire, once(strike))
    held, end = trial.judged(
        lambda: trial.copy(**trial.through(wire, "target"), timeouts=QUICK, publish=publish),
        strike=strike,
        within=QUICK.connect + GRACE,
        heal=outage.recovered,
    )
    assert isinstance(end, StageError)
    assert (held, end.stage, end.retryable) == ("old", "publish", True)
    return end


@pytest.mark.parametrize("publish", ["swap", "delta"])
def test_a_publishing_backend_killed_before_its_commit_leaves_the_old_rows(
    trial: Trial, target_wire: Proxy, publish: str
) -> None:
    end = struck_before_commit(trial, target_wire, publish, lambda backend: os.kill(backend, signal.SIGKILL))
    assert "unchanged" in end.message


@pytest.mark.parametrize("publish", ["swap", "truncate_insert"])
def test_a_publishing_backend_killed_after_its_commit_has_published(
    trial: Trial, target_wire: Proxy, publish: str
) -> None:
    """The commit is on disk, its answer never comes, the server is recovering: the receipt tells."""
    outage = Outage(trial.target.server)

    def strike() -> None:
        writer = outage.writer(trial.target.name)
        target_wire.lose_answer_now(then=lambda: os.kill(writer, signal.SIGKILL))

    at_commit(target_wire, once(strike))
    held, end = trial.judged(
        lambda: trial.copy(**trial.through(target_wire, "target"), timeouts=QUICK, publish=publish),
        heal=outage.recovered,
    )
    assert isinstance(end, CopyReport)
    assert held == "new"


@pytest.mark.parametrize("publish", ["delta"])
def test_a_publish_that_cannot_write_its_log_crashes_the_server_and_leaves_the_old_rows(
    trial: Trial, target_wire: Proxy, publish: str
) -> None:
    """A disk full for the log (here: the backend may write no byte more) makes the server panic at COMMIT."""
    struck_before_commit(trial, target_wire, publish, lambda backend: may_write_nothing(trial.target.server, backend))
    assert "was terminated by signal 6" in trial.target.server.log_tail(200), "the server did not panic"


@pytest.mark.parametrize("answered", [False, True], ids=["before COMMIT", "after COMMIT"])
def test_a_postmaster_killed_around_commit_is_asked_for_the_receipt_when_it_is_back(
    trial: Trial, target_wire: Proxy, answered: bool
) -> None:
    outage = Outage(trial.target.server)

    def crash() -> None:
        outage.down(signal.SIGKILL)
        outage.up()

    do = (lambda: target_wire.lose_answer_now(then=crash)) if answered else crash
    at_commit(target_wire, once(do))
    held, end = trial.judged(lambda: trial.copy(**trial.through(target_wire, "target"), timeouts=QUICK))
    assert held == ("new" if answered else "old")
    assert isinstance(end, CopyReport if answered else StageError)


@pytest.mark.parametrize("answered", [False, True], ids=["before COMMIT", "after COMMIT"])
def test_a_server_that_stays_down_after_commit_leaves_it_unknown(
    trial: Trial, target_wire: Proxy, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """Nobody can tell, and nobody claims to; the next run finds out."""
    monkeypatch.setattr(transaction, "_SETTLE_SECONDS", 1.5)
    outage = Outage(trial.target.server)
    strike = Strike(outage.down)
    do = (lambda: target_wire.lose_answer_now(then=strike)) if answered else strike
    at_commit(target_wire, once(do))
    held, end = trial.judged(
        lambda: trial.copy(**trial.through(target_wire, "target"), timeouts=QUICK),
        strike=strike,
        within=1.5 + QUICK.connect + GRACE,
        heal=outage.up,
    )
    assert held == ("new" if answered else "old")
    assert isinstance(end, PublishUnknownError)
    assert not end.retryable


def at_commit(wire: Proxy, do: Callable[[], object]) -> None:
    """Do it when the publish asks to commit, whichever way it writes: after its receipt comes no other COMMIT."""
    wire.at_message(RECEIPT, lambda: wire.at_message_now(COMMIT, do))


def once(do: Callable[[], object]) -> Callable[[], None]:
    """The first time only."""
    left = [do]

    def first() -> None:
        if left:
            left.pop()()

    return first


def may_write_nothing(server: Server, pid: int) -> None:
    """As a full disk: PostgreSQL ignores the signal, and sees its write fail."""
    # As the server's own user: not even root may always limit others.
    subprocess.run(["prlimit", f"--pid={pid}", "--fsize=0:0"], check=True, **server._home.account.options())

"""The network fails at any step of the line, on either side, in any way it can: old or new, told in time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_safecopy.errors import PublishUnknownError, SafeCopyError, StageError, StageTimeoutError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.faults.trial import GRACE, QUICK, Strike, Trial, each_step, sampled, steps_of
from tests.support.proxy import Proxy

SIDES = ("source", "target")
LOUD = {
    "cut": Proxy.cut_now,
    "reset": Proxy.reset_now,
    "lost answer": Proxy.lose_answer_now,
}
"""What a client is told of at once."""
SILENT = {"stall": Proxy.stall_now, "half-open": Proxy.half_open_now}
_HELD = """
SELECT pid, state, query FROM pg_stat_activity
WHERE starts_with(application_name, 'safecopy:') AND datname = current_database() AND xact_start IS NOT NULL
"""
_UNHURRIED = {"source": b"BEGIN ISOLATION LEVEL REPEATABLE READ", "target": b"CREATE TABLE safecopy."}
_LONGEST = max(QUICK.connect, QUICK.export, QUICK.import_, QUICK.stall, QUICK.verify, QUICK.publish)


@pytest.fixture(scope="module", params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    """The side that is reached through the proxy."""
    return str(request.param)


@pytest.fixture(scope="module")
def wire(trial: Trial, side: str) -> Iterator[Proxy]:
    """The proxy before it."""
    proxy = Proxy.before("127.0.0.1", trial.side(side).server.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def steps(trial: Trial, side: str, wire: Proxy) -> int:
    """How many steps a clean copy has there."""
    trial.reset()
    return steps_of(wire, trial, side)


def tried(trial: Trial, side: str, wire: Proxy, fault: str, *, steps: Sequence[int], within: float) -> None:
    """The fault at each of these steps: told in time, and worth a retry if it ends the copy."""
    for step, strike, run in each_step(
        trial, wire, side, lambda: (LOUD | SILENT)[fault](wire), steps=steps, timeouts=QUICK
    ):
        _, end = trial.judged(run, strike=strike, within=within, heal=wire.mend)
        if isinstance(end, SafeCopyError) and not isinstance(end, PublishUnknownError):
            assert end.retryable, f"{fault} at step {step} on the {side}: {end}"


@pytest.mark.parametrize("fault", LOUD)
def test_a_connection_lost_at_any_step_is_told_at_once(
    trial: Trial, side: str, wire: Proxy, steps: int, fault: str
) -> None:
    turn = 1 + 2 * list(LOUD).index(fault)
    tried(trial, side, wire, fault, steps=sampled(steps, 1, turn=turn), within=QUICK.connect + GRACE)


def test_a_session_the_server_was_not_told_to_end_holds_nothing(
    trial: Trial, side: str, wire: Proxy, steps: int
) -> None:
    """Its client is gone, and it may live until the server's own keepalive: without a transaction, and so without a lock."""

    def demand_nothing_held() -> None:
        deadline = time.monotonic() + 5
        while held := [*trial.source.rows(_HELD), *trial.target.rows(_HELD)]:
            assert time.monotonic() < deadline, held
        wire.cut()
        wire.mend()

    for step, strike, run in each_step(
        trial, wire, side, wire.orphan_now, steps=sampled(steps, 2, turn=2), timeouts=QUICK
    ):
        _, end = trial.judged(run, strike=strike, within=QUICK.connect + GRACE, heal=demand_nothing_held)
        if isinstance(end, SafeCopyError):
            assert end.retryable, f"at step {step} of {steps} on the {side}: {end}"


def test_a_source_that_is_lost_as_it_is_let_go_holds_nothing(trial: Trial) -> None:
    """Found by trying all steps: the copy published, and its snapshot stayed open on the source."""
    trial.reset()
    wire = Proxy.before("127.0.0.1", trial.source.server.port)
    try:
        wire.at_message(b"ROLLBACK\0", wire.orphan_now)  # by itself: planning rolls back what it reads
        report = trial.copy(**trial.through(wire, "source"), timeouts=QUICK)
        assert wire.met.is_set()
    finally:
        wire.close()
    assert report.status == "published"
    assert trial.source.rows(_HELD) == []


@pytest.mark.parametrize("fault", SILENT)
def test_a_network_that_falls_silent_at_any_step_is_waited_for_no_longer_than_a_timeout(
    trial: Trial, side: str, wire: Proxy, steps: int, fault: str
) -> None:
    turn = 3 + list(SILENT).index(fault)
    tried(trial, side, wire, fault, steps=sampled(steps, 1, turn=turn), within=_LONGEST + GRACE)


def test_a_question_that_the_network_swallows_is_waited_for_no_longer_than_a_timeout(
    trial: Trial, wire: Proxy, side: str
) -> None:
    """The soak found it: the source's snapshot and the target's staging table were asked for without a limit."""
    trial.reset()
    strike = Strike(wire.stall_now)
    wire.at_message(_UNHURRIED[side], strike)
    _, end = trial.judged(
        lambda: trial.copy(**trial.through(wire, side), timeouts=QUICK, publish="swap"),
        strike=strike,
        within=_LONGEST + GRACE,
        heal=wire.mend,
    )
    assert isinstance(end, StageError)
    assert end.retryable
    assert "no answer within" in end.message


def test_a_server_that_takes_connections_and_never_answers_is_a_connect_timeout(
    trial: Trial, side: str, wire: Proxy
) -> None:
    trial.reset()
    wire.stall()
    _, end = trial.judged(
        lambda: trial.copy(**trial.through(wire, side), timeouts=QUICK), within=QUICK.connect + GRACE, heal=wire.mend
    )
    assert isinstance(end, StageError)
    assert (end.stage, end.retryable) == ("connect", True)
    assert str(trial.through(wire, side)[side]) in end.message


def test_a_server_that_answers_late_is_waited_for(trial: Trial, side: str, wire: Proxy) -> None:
    trial.reset()
    wire.late(0.6)
    _, end = trial.judged(lambda: trial.copy(**trial.through(wire, side), timeouts=QUICK), heal=wire.mend)
    assert isinstance(end, CopyReport)


@pytest.mark.parametrize("host", ["없는서버.invalid", "nowhere.invalid"], ids=["Korean", "ASCII"])
def test_a_host_without_an_address_is_told_by_its_name(trial: Trial, side: str, host: str) -> None:
    trial.reset()
    lost: dict[str, Any] = {side: Endpoint.from_parameters(dict(trial.side(side).endpoint.parameters) | {"host": host})}
    _, end = trial.judged(lambda: trial.copy(**lost, timeouts=QUICK), within=QUICK.connect + GRACE)
    assert isinstance(end, StageError)
    assert (end.stage, end.retryable) == ("connect", True)
    assert host in end.message


def test_a_slow_drip_is_no_stall(trial: Trial, side: str, wire: Proxy) -> None:
    """The stream takes seconds, and an export never has to wait for a byte for long.

    An import's bytes wait in pipes and sockets, where nobody sees them go: these must be empty within the stall timeout.
    """
    trial.reset()
    timeouts = replace(QUICK, export=60, import_=60, stall=2 if side == "source" else 10)
    _, end = trial.judged(lambda: dripping(trial, wire, side, 5000, timeouts), heal=wire.mend)
    assert isinstance(end, CopyReport), end
    assert sum(stage.seconds for stage in end.stages if stage.stage in {"export", "import"}) > 2


def test_a_drip_too_slow_ends_in_the_stages_own_timeout(trial: Trial, side: str, wire: Proxy) -> None:
    trial.reset()
    timeouts = replace(QUICK, stall=60, export=2, import_=2)
    _, end = trial.judged(
        lambda: dripping(trial, wire, side, 3000, timeouts), within=timeouts.export + GRACE, heal=wire.mend
    )
    assert isinstance(end, StageTimeoutError)
    assert (end.stage, end.retryable) == ("export" if side == "source" else "import", True)


def dripping(trial: Trial, wire: Proxy, side: str, rate: int, timeouts: Timeouts) -> CopyReport:
    """A copy whose wire to one side passes so many bytes a second while rows go over it."""

    def slow(at: Progress) -> None:
        if at.stage == ("export" if side == "source" else "import"):
            wire.drip(rate)
        if at.stage == "verify":
            wire.mend()

    return trial.copy(**trial.through(wire, side), progress=slow, timeouts=timeouts, transfer="sequential")

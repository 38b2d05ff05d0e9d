"""SIGKILL, SIGTERM, SIGINT, SIGSTOP and SIGCONT: of the command and of its psqls, at every step of the line.

The quick suite samples the steps of a clean run, a different sample for each signal; `SAMPLES` says how many.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.cli.signals import raise_on_signals, throw_on_signals
from airflow_provider_safecopy.errors import LockBusyError
from airflow_provider_safecopy.lock import process as lock_process
from tests.faults.conftest import Ground
from tests.faults.invariant import said
from tests.faults.line import (
    LATEST,
    LINES,
    Line,
    Step,
    at,
    held,
    line_of,
    make_overdue,
    new_source,
    new_target,
    start,
    struck,
)
from tests.faults.run import Run, Victim, between
from tests.faults.trial import ALL
from tests.support.database import Database, Servers
from tests.support.remains import Remains
from tests.support.until import until

ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SAMPLES: dict[Victim, int] = dict.fromkeys(("our process", "export psql", "import psql"), 1_000_000 if ALL else 1)
"""At how many steps of those at which it lives each is sent each signal; with more than there are, at all."""


def sampled(line: Line, victim: Victim, number: signal.Signals) -> list[Step]:
    """Some of the steps at which the victim lives, spread evenly; others for other signals."""
    found = [step for step in line.steps if victim in step.alive]
    count, shift = min(SAMPLES[victim], len(found)), (ENDING.index(number) + 0.5) / len(ENDING)
    return [found[int((part + shift) * len(found) / count)] for part in range(count)]


@pytest.fixture(scope="module")
def orders(servers: Servers) -> Iterator[Database]:
    """The source: as `filled`, but small."""
    source = new_source(servers)
    yield source
    servers.drop(source)


@pytest.fixture(scope="module")
def lines(
    orders: Database, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Line]]:
    """The line of a way to publish, made when first asked for."""
    made: dict[str, Line] = {}

    def get(publish: str) -> Line:
        if publish not in made:
            made[publish] = line_of(
                publish, Ground(orders, new_target(servers), tmp_path_factory.mktemp("spool"), Remains().check)
            )
        return made[publish]

    yield get
    for each in made.values():
        servers.drop(each.ground.target)


@pytest.fixture(params=list(LINES))
def line(request: pytest.FixtureRequest, lines: Callable[[str], Line]) -> Line:
    """Each way to publish in its turn, or the one that a test names."""
    return lines(request.param)


# Ended


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_command_at_any_step(line: Line, number: signal.Signals) -> None:
    for step in sampled(line, "our process", number):
        ended = struck(line, at(step, "our process", number))
        assert ended.met, step
        asked = 0 if line.is_after_commit(step) else 130
        assert ended.code == (-number if number == signal.SIGKILL else asked), f"{step}: {ended.err}"


@pytest.mark.parametrize(
    "line, victim, number",
    [
        ("swap", "export psql", signal.SIGKILL),
        ("swap", "export psql", signal.SIGINT),
        ("swap", "import psql", signal.SIGTERM),
        ("delta", "export psql", signal.SIGTERM),
        ("delta", "import psql", signal.SIGINT),
        ("delta", "import psql", signal.SIGKILL),
    ],
    indirect=["line"],
)
def test_a_psql_ends_at_any_step(line: Line, victim: Victim, number: signal.Signals) -> None:
    """One that had nothing left to do may end as it likes."""
    for step in sampled(line, victim, number):
        ended = struck(line, at(step, victim, number))
        assert ended.code in {0, 5}, f"{step}: {ended.err}"
        if ended.code == 5:
            assert ended.report["error"]["stage"] == victim.split()[0]
            assert ended.report["error"]["retryable"]


@pytest.mark.parametrize(
    "line, number, fate, code",
    [
        ("swap", signal.SIGKILL, "arrives", -signal.SIGKILL),
        ("delta", signal.SIGKILL, "is lost", -signal.SIGKILL),
        ("delta", signal.SIGTERM, "arrives", 0),
        ("swap", signal.SIGINT, "loses its answer", 0),
        ("swap", signal.SIGTERM, "is lost", 130),
    ],
    indirect=["line"],
)
def test_a_signal_when_commit_has_been_sent(line: Line, number: signal.Signals, fate: str, code: int) -> None:
    def meet(run: Run) -> None:
        fates: dict[str, Callable[[], object]] = {
            "arrives": bool,
            "is lost": run.lose_commit,
            "loses its answer": run.wires["target"].lose_answer_now,
        }
        run.at_commit(lambda: (run.send("our process", number), fates[fate]()))

    receipts = _receipts(line)
    ended = struck(line, meet, whole=fate != "is lost")
    assert ended.met
    assert ended.code == code, ended.err
    # That of the run that was met, if its COMMIT came through, and that of the next.
    assert len(_receipts(line)) == len(receipts) + (1 if fate == "is lost" else 2)


@pytest.mark.parametrize("line", ["delta"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_connection_touches_nothing(line: Line, number: signal.Signals) -> None:
    """Its handlers are there and libpq is loaded, which comes right before; where it is too late, it is later."""
    line.ground.put_old_rows_back()
    invariant = line.before()
    with between(line.ground.source, line.ground.target) as run:
        start(run, line.ground, line.words)
        until(lambda: "libpq" in Path(f"/proc/{run.process.pid}/maps").read_text())
        when = time.monotonic()
        run.process.send_signal(number)
        ended = run.ended(met=when)
    assert held(line, invariant, ended) == "old"
    assert (ended.code, ended.report["error"]["type"]) == (130, "AbortedError"), ended.err
    invariant.recovered(line.copy)


@pytest.mark.parametrize("line", ["swap"], indirect=True)
def test_a_signal_after_the_word_was_said_does_not_take_it_back(line: Line) -> None:
    """Once the report is out, the exit code must be its own: 130 would say that nothing was published."""
    line.ground.put_old_rows_back()
    invariant = line.before()
    with between(line.ground.source, line.ground.target) as run:
        start(run, line.ground, line.words)
        assert run.process.stdout is not None
        report = run.process.stdout.readline()
        run.process.send_signal(signal.SIGTERM)
        ended = run.ended()
    assert '"status": "published"' in report
    assert (ended.code, ended.out) == (0, ""), ended.err
    assert invariant.hold(said(ended.code)) == "new"


@pytest.mark.parametrize("error", [None, ValueError], ids=["done", "failed"])
def test_a_signal_between_the_run_and_its_exit_code_changes_nothing(error: type[Exception] | None) -> None:
    try:
        with raise_on_signals():
            with suppress(ValueError), throw_on_signals(AbortSwitch()):
                if error is not None:
                    raise error
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as interrupt:
        pytest.fail(f"{interrupt} made it an aborted run")


# Stopped


@pytest.mark.parametrize("line, victim", [("swap", "import psql"), ("delta", "export psql")], indirect=["line"])
def test_a_psql_that_is_stopped_is_a_stall(line: Line, victim: Victim) -> None:
    (step, *_) = [step for step in line.steps if victim in step.alive]
    ended = struck(line, at(step, victim, signal.SIGSTOP))
    assert ended.met
    assert ended.code == 5, ended.err
    assert (ended.report["error"]["type"], ended.report["error"]["stage"]) == ("StalledError", victim.split()[0])


@pytest.mark.parametrize("line, victim", [("delta", "import psql"), ("swap", "export psql")], indirect=["line"])
def test_a_psql_that_is_stopped_for_a_moment_changes_nothing(line: Line, victim: Victim) -> None:
    def go_on(run: Run) -> None:
        assert run.met.wait(LATEST)
        assert run.send(victim, signal.SIGCONT)

    (step, *_) = [step for step in line.steps if victim in step.alive]
    assert struck(line, at(step, victim, signal.SIGSTOP), go_on).code == 0


def _early(line: Line) -> Step:
    return line.steps[1]


def _importing(line: Line) -> Step:
    steps = [step for step in line.steps if "import psql" in step.alive]
    return steps[len(steps) // 2]


@pytest.mark.parametrize(
    "line, when, codes",
    [
        ("swap", _early, {0}),
        ("delta", _importing, {4}),
        ("swap", "commit, on its way", {4}),
        ("delta", "commit, on its way", {4}),
        ("swap", "commit, arrived", {0}),
        ("delta", "commit, answered", {0}),
    ],
    indirect=["line"],
)
def test_a_stopped_run_that_was_taken_over_cannot_publish_when_it_goes_on(
    line: Line, monkeypatch: pytest.MonkeyPatch, when: Callable[[Line], Step] | str, codes: set[int]
) -> None:
    """By a rival on another machine, which cannot end it. Or it had published before; or it had no lock yet."""
    monkeypatch.setattr(lock_process, "_read_boot_and_namespace", lambda: ("다른 기계", 1))
    line.ground.put_old_rows_back()
    first = line.before()
    with between(line.ground.source, line.ground.target) as run:
        _stop(run, when if isinstance(when, str) else when(line))
        start(run, line.ground, line.words)
        assert run.met.wait(LATEST)
        make_overdue(line)
        rival = line.copy()
        assert first.hold(said(rival)) == "new"
        taken, then = _receipts(line), line.before()
        run.wires["target"].mend()
        woken = time.monotonic()
        run.send("our process", signal.SIGCONT)
        ended = run.ended(met=woken)
    assert ended.code in codes, ended.err
    held(line, then, ended)
    added = [token for token in _receipts(line) if token not in taken]
    assert all(token > rival.token for token in added if rival.token is not None), "it published by an old token"
    assert len(added) == (1 if when is _early else 0)
    then.recovered(line.copy)


@pytest.mark.parametrize("line", ["swap"], indirect=True)
def test_a_command_stopped_in_its_swap_hangs_nobody(line: Line) -> None:
    """It keeps the target locked from all. Others are told that it is busy, and once it is overdue it is ended."""
    line.ground.put_old_rows_back()
    invariant = line.before()
    with between(line.ground.source, line.ground.target) as run:
        _stop(run, "commit, on its way")
        start(run, line.ground, line.words)
        assert run.met.wait(LATEST)
        line.ground.target.execute("UPDATE safecopy.lock SET alive_at = clock_timestamp() - interval '12 seconds'")
        with pytest.raises(LockBusyError, match="it will be taken in"):
            line.copy()
        make_overdue(line)
        invariant.recovered(line.copy)
        assert run.ended().code == -signal.SIGKILL


def _stop(run: Run, when: Step | str) -> None:
    """Have our process stopped."""

    def stop() -> bool:
        return run.send("our process", signal.SIGSTOP)

    def stop_on_its_way() -> None:
        stop()
        run.wires["target"].stall_now()

    if isinstance(when, Step):
        run.at(when.side, when.number, stop)
        return
    moments = {"arrived": (run.at_commit, stop), "answered": (run.after_commit, stop)}
    meet, do = moments.get(when.removeprefix("commit, "), (run.at_commit, stop_on_its_way))
    meet(do)


def _receipts(line: Line) -> Sequence[Any]:
    return [token for (token,) in line.ground.target.rows("SELECT token FROM safecopy.receipt ORDER BY token")]

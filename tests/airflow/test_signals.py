"""Signals to Airflow's task runner, and to its supervisor, at chosen steps: old rows or new ones, and never a false word.

The quick suite meets `QUICK`; `CASES` are all, tried with ``FAULT_STEPS=all``.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.report import CopyReport
from tests.airflow.conftest import Connect
from tests.airflow.home import AirflowHome, copying
from tests.faults.invariant import Invariant, Said
from tests.faults.run import Run, Victim, between
from tests.faults.trial import ALL
from tests.support.customers import spec
from tests.support.database import Database
from tests.support.until import until

When = Literal["import", "commit", "commit, on its way"]
LATEST = 120.0
"""Seconds from a fault until the task's processes have ended, Airflow's own grace and goodbyes included."""


@dataclass(frozen=True)
class Case:
    """Who gets what when; the state of the task then, and what that says of the target.

    Whoever stopped goes on once a rival has published, or, at its COMMIT, once that has happened.
    """

    victim: Victim
    number: signal.Signals
    when: When
    state: str
    said: Said

    def __str__(self) -> str:
        return f"{self.victim}, {self.number.name}, {self.when}"


_PASSED_ON = tuple(map(int, version("apache-airflow").split(".")[:2])) >= (3, 3)
"""Whether a supervisor passes SIGTERM on to its task; before Airflow 3.3 it just dies of it, as of SIGKILL."""

CASES = (
    Case("our process", signal.SIGKILL, "commit", "failed", "nothing"),
    Case("our process", signal.SIGKILL, "import", "failed", "nothing"),
    Case("our process", signal.SIGTERM, "import", "failed", "unchanged"),
    Case("our process", signal.SIGTERM, "commit", "success", "published"),
    Case("our process", signal.SIGINT, "import", "failed", "nothing"),
    Case("our process", signal.SIGSTOP, "commit, on its way", "failed", "unchanged"),
    Case("supervisor", signal.SIGKILL, "import", "running", "nothing"),
    Case("supervisor", signal.SIGKILL, "commit", "running", "nothing"),
    Case("supervisor", signal.SIGTERM, "import", *(("failed", "unchanged") if _PASSED_ON else ("running", "nothing"))),
    Case("supervisor", signal.SIGINT, "import", "failed", "nothing"),
    Case("supervisor", signal.SIGSTOP, "commit", "success", "published"),
)
QUICK = CASES if ALL else [CASES[at] for at in (5, 8)]


@pytest.mark.skipif(version("apache-airflow").startswith("2."), reason="Airflow 2 has other supervisors")
@pytest.mark.parametrize("case", QUICK, ids=str)
def test_a_signal_to_a_task_leaves_old_rows_or_new_ones(
    airflow: AirflowHome, filled: tuple[Database, Database], connect: Connect, case: Case
) -> None:
    source, target = filled

    def rival() -> CopyReport:
        return pipeline.copy(spec(), source.endpoint, target.endpoint)

    invariant = Invariant.before(source, target, ("영업", "고객"))
    with between(source, target, supervised=True) as run, airflow.dag(_copy()) as dag_id:
        for conn_id, side in (("erp", run.through("source")), ("dw", run.through("target"))):
            connect(conn_id, side)
        _meet(run, case)
        run.start([sys.executable, str(Path(__file__).with_name("supervised.py")), str(airflow.dags), dag_id])
        assert run.met.wait(LATEST), "it was never met"
        if case.number == signal.SIGSTOP:
            invariant = _go_on(run, case, invariant, rival)
        ended = run.ended()
    assert ended.seconds is not None
    assert ended.seconds < LATEST
    assert airflow.ran(dag_id).state == case.state, ended.out + ended.err
    invariant.hold(case.said)
    if case.state == "success":
        assert json.loads(json.dumps(airflow.ran(dag_id).result))["status"] == "published"
    invariant.recovered(rival)


def _copy() -> str:
    return copying(source_table="영업.고객", target_table="영업.고객", transfer="chunked", publish="delta")


def _meet(run: Run, case: Case) -> None:
    def strike() -> bool:
        return run.send(case.victim, case.number)

    def strike_on_its_way() -> None:
        strike()
        run.wires["target"].stall_now()

    if case.when == "import":
        run.at("target", 1, lambda: strike() if "import psql" in run.alive() else False)
    else:
        run.at_commit(strike if case.when == "commit" else strike_on_its_way)


def _go_on(run: Run, case: Case, invariant: Invariant, rival: Callable[[], CopyReport]) -> Invariant:
    """Let who was stopped go on, in time to be too late; what must hold then."""
    target = invariant.target
    if case.when == "commit":
        until(lambda: target.value("SELECT count(*) FROM safecopy.receipt") == 1)
    else:
        target.execute("UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 second'")
        report = rival()
        assert invariant.hold("published") == "new"
        assert target.rows("SELECT token FROM safecopy.receipt") == [(report.token,)]
        invariant = Invariant.before(invariant.source, target, invariant.table)
    run.wires["target"].mend()
    run.send(case.victim, signal.SIGCONT)
    return invariant

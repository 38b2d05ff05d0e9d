"""The wire is cut, falls silent, or loses the one answer that matters."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PublishUnknownError, SafeCopyError, StageError, StalledError
from airflow_provider_safecopy.publish import transaction
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.faults.conftest import Ground
from tests.support.database import Database
from tests.support.proxy import Proxy

MakeProxy = Callable[[Database], Proxy]


def test_a_commit_whose_answer_is_lost_is_settled_by_its_receipt(ground: Ground, proxy: MakeProxy) -> None:
    wire = proxy(ground.target)
    told: list[Progress] = []

    def lose(at: Progress) -> None:
        told.append(at)
        if at.stage == "publish":  # staging has been committed by then: delta's next COMMIT is the publish's
            wire.lose_answer_after(b"COMMIT\0")

    report = pipeline.copy(
        ground.spec(publish="delta"), ground.source.endpoint, ground.target.through(wire.port).endpoint, progress=lose
    )
    assert wire.met.is_set()
    assert report.status == "published"
    assert ground.target.value("SELECT count(*) FROM safecopy.receipt WHERE token = %s", [report.token]) == 1
    ground.demand("new")


def test_a_commit_that_never_arrived_is_known_not_to_have_happened(ground: Ground, proxy: MakeProxy) -> None:
    wire = proxy(ground.target)

    def cut(at: Progress) -> None:
        if at.stage == "publish":
            wire.cut_before(b"COMMIT\0")

    with pytest.raises(StageError, match="unchanged") as caught:
        pipeline.copy(
            ground.spec(publish="delta"),
            ground.source.endpoint,
            ground.target.through(wire.port).endpoint,
            progress=cut,
        )
    assert caught.value.retryable
    ground.demand("old", swept_by_next_run=True)


def test_a_commit_nobody_can_ask_about_is_reported_as_unknown(
    ground: Ground, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = proxy(ground.target)
    monkeypatch.setattr(transaction, "_SETTLE_SECONDS", 1.5)

    def lose(at: Progress) -> None:
        if at.stage == "publish":
            wire.lose_answer_after(b"COMMIT\0")

    def cut_for_good(original: Callable[..., bool]) -> Callable[..., bool]:
        def settle(job: object) -> bool:
            wire.cut()
            return original(job)

        return settle

    monkeypatch.setattr(transaction, "_settle_commit", cut_for_good(transaction._settle_commit))
    with pytest.raises(PublishUnknownError) as caught:
        pipeline.copy(
            ground.spec(publish="delta"),
            ground.source.endpoint,
            ground.target.through(wire.port).endpoint,
            progress=lose,
        )
    error = caught.value
    assert ground.target.value("SELECT count(*) FROM safecopy.receipt WHERE attempt = %s::uuid", [error.attempt]) == 1
    assert not error.retryable
    ground.demand("new", swept_by_next_run=True)  # its lock could not be released


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("stage", ["export", "verify", "publish"])
def test_a_cut_connection_is_an_error_that_names_the_stage(
    ground: Ground, proxy: MakeProxy, stage: str, side: str
) -> None:
    through = {"source": ground.source, "target": ground.target}
    wire = proxy(through[side])
    through[side] = through[side].through(wire.port)

    def cut(at: Progress) -> None:
        if at.stage == stage:
            wire.cut()

    if side == "source" and stage != "export":
        # Once exported, nothing more is asked of the source.
        pipeline.copy(ground.spec(), through["source"].endpoint, through["target"].endpoint, progress=cut)
        ground.demand("new")
        return
    with pytest.raises(SafeCopyError) as caught:
        pipeline.copy(ground.spec(), through["source"].endpoint, through["target"].endpoint, progress=cut)
    assert caught.value.retryable
    assert getattr(caught.value, "stage", None) in {"export", "import", "verify", "publish", "connect"}
    ground.demand("old", swept_by_next_run=True)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_network_that_swallows_packets_is_a_stall(ground: Ground, proxy: MakeProxy, side: str) -> None:
    through = {"source": ground.source, "target": ground.target}
    wire = proxy(through[side])
    through[side] = through[side].through(wire.port)

    def stall(at: Progress) -> None:
        if at.stage == ("export" if side == "source" else "import"):
            wire.stall()

    started = time.monotonic()
    with pytest.raises(StalledError) as caught:
        pipeline.copy(
            ground.spec(timeouts=Timeouts(stall=1, connect=2), transfer="sequential"),
            through["source"].endpoint,
            through["target"].endpoint,
            progress=stall,
        )
    assert time.monotonic() - started < 1 + 40
    assert caught.value.stage == ("export" if side == "source" else "import")
    wire.cut()
    ground.demand("old", swept_by_next_run=True)

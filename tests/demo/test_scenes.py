"""The demo's scenes, on small tables: real runs that overlap, are killed and are paused."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from airflow_provider_safecopy.demo import scenes, tables
from airflow_provider_safecopy.demo.run import Run
from airflow_provider_safecopy.demo.scenes import Check, Scene
from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.demo.tables import Database
from airflow_provider_safecopy.errors import VerifyError
from tests.support.database import ALWAYS
from tests.support.place import place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Told:
    """A screen that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def detail(self, text: str) -> None:
        """For those who want all."""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Database, Database]]:
    """The demo's two databases, smaller, on servers of their own: their names are fixed."""
    found = {each.major: each for each in installations()}
    older, newer = (found[major] for major in ALWAYS)
    with (
        pytest.MonkeyPatch.context() as patch,
        Server.start(older, durable=False, place=place()) as one,
        Server.start(newer, durable=False, place=place()) as other,
    ):
        patch.setattr(tables, "CUSTOMERS", 1_000)
        patch.setattr(tables, "ORDERS", 10)
        source, target = Database(one, "erp", "영업"), Database(other, "dw", "분석")
        tables.fill_source(source, Event())
        tables.fill_target(target, Event())
        yield source, target


@pytest.fixture(scope="module")
def played(pair: tuple[Database, Database], psql: str) -> tuple[tuple[Scene, ...], Told]:
    """All scenes, and what was said."""
    told = Told()
    return scenes.play(*pair, told, psql=psql), told


def seen(scene: Scene) -> dict[str, str]:
    return {check.what: check.seen for check in scene.checks}


def test_everything_is_as_it_must_be(played: tuple[tuple[Scene, ...], Told]) -> None:
    assert [scene.title for scene in played[0]] == [
        "an overlapping run refused",
        "a killed run taken over",
        "a paused run fenced out",
    ]
    assert all(check.holds for scene in played[0] for check in scene.checks)


def test_the_overlapping_run_is_refused_and_told_by_whom(played: tuple[tuple[Scene, ...], Told]) -> None:
    told = seen(played[0][0])
    assert told["second run's exit code"] == "3"
    assert (told["first run's exit code"], told["target afterwards"]) == ("0", "제1판")
    assert any(line.startswith("second run:   held by        first run, host ") for line in played[1].lines)
    assert any(line.startswith("second run:   will be taken  in ") for line in played[1].lines)


def test_the_killed_run_leaves_nothing_and_its_lock_at_once(played: tuple[tuple[Scene, ...], Told]) -> None:
    told = seen(played[0][1])
    assert told["next run took the lock by"] == "takeover-dead"
    assert (told["target after the kill"], told["target afterwards"]) == ("제1판", "제2판")


def test_the_paused_run_cannot_publish_over_newer_rows(
    played: tuple[tuple[Scene, ...], Told], pair: tuple[Database, Database]
) -> None:
    told = seen(played[0][2])
    assert (told["paused run's exit code"], told["next run took the lock by"]) == ("4", "takeover-stale")
    assert told["target afterwards"] == "제4판"
    assert any("LockLostError" in line or "FencedOutError" in line for line in played[1].lines)
    receipts = [row[0] for row in pair[1].server.execute("dw", "SELECT token FROM safecopy.receipt ORDER BY id")]
    assert receipts == [1, 3, 5]  # the killed and the paused run drew 2 and 4


def test_what_is_shown_is_what_matters(played: tuple[tuple[Scene, ...], Told]) -> None:
    assert [line for line in played[1].lines if line.startswith("scene: ")] == [
        "scene: an overlapping run is refused",
        "scene: a killed run is taken over",
        "scene: a paused run is fenced out",
    ]
    assert len(played[1].lines) < 50
    assert not [line for line in played[1].lines if "password" in line]


def test_a_scene_that_goes_otherwise_fails_the_demo_and_is_named(
    pair: tuple[Database, Database], psql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Scene("시험", (Check("it was so", "1", "1"), Check("it was not so", "1", "2")))
    for scene in ("play_overlap", "play_kill", "play_pause"):
        monkeypatch.setattr(scenes, scene, lambda _: wrong)
    with pytest.raises(VerifyError, match="not as it had to be: it was not so") as caught:
        scenes.play(*pair, Told(), psql=psql)
    assert caught.value.proofs == {"it was not so": "1"}


def test_a_scene_that_is_broken_off_ends_its_runs(
    pair: tuple[Database, Database], psql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is paused at that moment."""
    runs: list[Run] = []
    pausing = Run.pause

    def pause(run: Run) -> None:
        pausing(run)
        runs.append(run)

    def interrupted(_: scenes.Stage) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "pause", pause)
    monkeypatch.setattr(scenes.Stage, "until_due", interrupted)
    for scene in ("play_overlap", "play_kill"):
        monkeypatch.setattr(scenes, scene, lambda _: Scene("시험", ()))
    with pytest.raises(KeyboardInterrupt):
        scenes.play(*pair, Told(), psql=psql)
    (run,) = runs
    assert run.process.returncode is not None

"""The judge finds each thing that must not happen, and nothing in a history where none did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.race import check
from tests.race.history import Happened, History, Published

NAME, MEMBER = "분석.고객", "고객_복사"
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def event(kind: str, token: int, second: float, attempt: str | None = None) -> Happened:
    return Happened(NAME, token, kind, MEMBER if attempt else None, attempt, at(second))


def published(mark: str, token: int, attempt: str, begun: float, ended: float) -> Published:
    return Published(mark, NAME, token, MEMBER, attempt, at(begun), at(ended))


FAIR = History(
    events=(
        event("grant", 1, 0, "a"),
        event("supersede", 1, 10, "b"),
        event("leave", 1, 20, "b"),
        event("takeover-stale", 2, 30, "c"),
        event("force-release", 3, 40),
    ),
    publishes=(published("가", 1, "a", 1, 9), published("나", 1, "b", 11, 19), published("다", 2, "c", 31, 39)),
    tokens={NAME: 3},
    content={NAME: [[MEMBER, 2, "다", 5]]},
)
SIGHTS = [(NAME, [[MEMBER, token, mark, 5]]) for token, mark in ((1, "가"), (1, "나"), (2, "다"))]


def with_publish(number: int, **changed: Any) -> History:
    publishes = list(FAIR.publishes)
    publishes[number] = replace(publishes[number], **changed)
    return replace(FAIR, publishes=tuple(sorted(publishes, key=lambda each: each.committed_at)))


def with_event(number: int, **changed: Any) -> History:
    events = list(FAIR.events)
    events[number] = replace(events[number], **changed)
    return replace(FAIR, events=tuple(events))


def test_a_fair_race_is_not_blamed() -> None:
    assert check.history(FAIR) == []
    assert [*check.acknowledged(FAIR, ["가", "다"]), *check.seen(FAIR, SIGHTS), *check.last(FAIR)] == []


@pytest.mark.parametrize(
    ("judged", "wanted"),
    [
        (with_publish(1, committed_at=at(30.5)), {"C1", "C1b"}),
        (with_publish(2, committed_at=at(40.5)), {"C1"}),
        (with_publish(2, attempt="d"), {"C1"}),
        (with_publish(0, committed_at=at(10.5)), {"C1b"}),
        (with_publish(1, committed_at=at(20.5)), {"C1b"}),
        (with_event(2, kind="revoke", committed_at=at(18)), {"C1b"}),
        (with_event(4, token=4), {"C2"}),
        (with_event(4, token=2), {"C2"}),
        (replace(FAIR, tokens={NAME: 2}), {"C2"}),
        (with_event(2, committed_at=at(30.5)), {"C2"}),
        (with_event(4, committed_at=at(29)), {"C1", "C2"}),
        (with_publish(1, fenced_at=at(8.5)), {"C1", "C3"}),
        (with_publish(0, committed_at=at(31.5)), {"C1", "C1b", "C3"}),
    ],
)
def test_history_shows_what_went_wrong(judged: History, wanted: set[str]) -> None:
    assert {violation.check for violation in check.history(judged)} == wanted


def test_a_publish_that_its_client_was_told_of_must_be_there() -> None:
    assert [each.check for each in check.acknowledged(FAIR, ["가", "라"])] == ["C4"]


@pytest.mark.parametrize(
    "sights",
    [
        [(NAME, [[MEMBER, 1, "가", 5], [MEMBER, 1, "나", 5]])],
        [(NAME, [[MEMBER, 1, "가", 4]])],
        [*SIGHTS[:1], (NAME, [])],
        [*SIGHTS, SIGHTS[1]],
        [SIGHTS[1], SIGHTS[0]],
        [(NAME, [[MEMBER, 1, "라", 5]])],
    ],
    ids=["mixture", "part", "emptied", "older token", "older publish", "never committed"],
)
def test_the_observer_must_see_whole_publishes_that_only_get_newer(sights: list[Any]) -> None:
    assert [each.check for each in check.seen(FAIR, sights)] == ["C5"]


@pytest.mark.parametrize(
    "content", [[], [[MEMBER, 1, "나", 5]], [[MEMBER, 2, "다", 4]], [[MEMBER, 1, "나", 5], [MEMBER, 2, "다", 5]]]
)
def test_what_is_left_is_the_last_publish(content: list[list[Any]]) -> None:
    assert [each.check for each in check.last(replace(FAIR, content={NAME: content}))] == ["C6"]


def test_an_attempt_that_asked_twice_is_judged_by_its_last_time() -> None:
    """Of two locks it got one and gave it back; then it got both."""
    again = (event("leave", 1, 0.2, "a"), event("join", 1, 0.5, "a"))
    asked_twice = replace(FAIR, events=(*FAIR.events, *again))
    assert check.history(asked_twice) == []


def test_two_members_of_one_run_may_publish_at_once() -> None:
    sibling: Callable[..., Any] = lambda thing, **more: replace(thing, member="주문_복사", attempt="e", **more)  # noqa: E731 -- for both kinds of values
    both = replace(
        FAIR,
        events=(*FAIR.events, sibling(event("join", 1, 0.5, "e"))),
        publishes=(*FAIR.publishes, sibling(published("라", 1, "e", 0.7, 15))),
    )
    assert check.history(both) == []

"""The pace of the source: ahead of a slow target, beside a fast one, and never faster than asked."""

from __future__ import annotations

import itertools
import time

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.spec import CopySpec, MiB
from airflow_provider_safecopy.transfer.flow_control import (
    HELD_BYTES,
    HELD_SECONDS,
    HOLD_RATIO,
    PROBE_BYTES,
    PROBE_SECONDS,
    RateLimit,
    ReadAhead,
)
from airflow_provider_safecopy.transfer.relay import PipeEnd
from tests.conftest import NothingLeft
from tests.support.database import Database

LATER = PROBE_SECONDS + 0.01


def test_a_source_is_read_freely_until_its_speed_is_known() -> None:
    pace, now = ReadAhead(), time.monotonic()
    assert pace.can_read_ahead(PROBE_BYTES - 1, 0, now + LATER)
    assert pace.can_read_ahead(PROBE_BYTES, PROBE_BYTES, now), "what buffers have taken says nothing yet"


def test_a_source_about_as_fast_as_its_target_is_held_to_that() -> None:
    pace, now = ReadAhead(), time.monotonic()
    assert not pace.can_read_ahead(PROBE_BYTES, round(PROBE_BYTES / HOLD_RATIO) + 1, now + LATER)


def test_a_much_faster_source_is_read_ahead_as_long_as_it_is() -> None:
    pace, now = ReadAhead(), time.monotonic()
    for turn in range(1, 5):
        assert pace.can_read_ahead(turn * PROBE_BYTES, turn * PROBE_BYTES // 5, now + turn * LATER)
    taken = 4 * PROBE_BYTES // 5
    for turn in (5, 6):
        taken += PROBE_BYTES
        pace.can_read_ahead(turn * PROBE_BYTES, taken, now + turn * LATER)
    assert not pace.is_ahead, "the target has caught up in speed"


def test_a_source_read_ahead_is_not_held_for_a_moment_in_which_it_is_slow() -> None:
    pace, now, read, taken = ReadAhead(), time.monotonic(), 0, 0
    for turn in range(1, 21):
        read, taken = read + PROBE_BYTES, taken + round(PROBE_BYTES / (1.2 if turn % 5 == 0 else 2.4))
        assert pace.can_read_ahead(read, taken, now + turn * LATER)


def test_a_source_that_was_held_has_to_be_much_faster_again() -> None:
    pace, now, between = ReadAhead(), time.monotonic(), round(PROBE_BYTES / 1.8)
    assert pace.can_read_ahead(PROBE_BYTES, PROBE_BYTES // 5, now + LATER)
    for turn in (2, 3, 4):
        pace.can_read_ahead(turn * PROBE_BYTES, turn * PROBE_BYTES, now + turn * LATER)
    assert not pace.is_ahead
    now += 4 * LATER + HELD_SECONDS
    assert pace.can_read_ahead(5 * PROBE_BYTES, 5 * PROBE_BYTES, now)
    assert not pace.can_read_ahead(6 * PROBE_BYTES, 5 * PROBE_BYTES + between, now + LATER), "1.8 times is less than 2"


@pytest.mark.parametrize(("rate", "rests"), [(800 * MiB, False), (200 * MiB, True)])
def test_a_pipe_is_left_to_fill_only_where_it_is_not_full_before_anybody_wakes(rate: int, rests: bool) -> None:
    """It is the speed of late that counts: what was slow at first may be fast now."""
    side = PipeEnd(xxhash.xxh3_128(), rested_at=100.0)
    side.size = MiB
    side.rest(101.0)
    assert side.resting_until == pytest.approx(101.003)
    side.size += round(rate * 0.004)
    side.rest(101.004)
    assert (side.resting_until > 101.004) == rests


@pytest.mark.parametrize(("more", "later"), [(HELD_BYTES, 0.0), (0, HELD_SECONDS)])
def test_a_source_that_is_held_is_tried_again(more: int, later: float) -> None:
    pace, now = ReadAhead(), time.monotonic() + LATER
    assert not pace.can_read_ahead(PROBE_BYTES, PROBE_BYTES, now)
    assert not pace.can_read_ahead(PROBE_BYTES + MiB, PROBE_BYTES, now + later / 2)
    assert pace.can_read_ahead(PROBE_BYTES + more, PROBE_BYTES, now + later)


def test_a_source_tried_in_vain_is_tried_less_often_and_never_given_up() -> None:
    """Each trial costs both servers processor time."""
    pace, now, trials = ReadAhead(), time.monotonic(), []
    for turn in range(1, 1001):
        now, before = now + LATER, pace.is_ahead
        if pace.can_read_ahead(turn * PROBE_BYTES, turn * PROBE_BYTES, now) and not before:
            trials.append(now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(trials)]
    assert gaps[:4] == sorted(gaps[:4])
    assert gaps[0] == pytest.approx(2 * HELD_SECONDS, abs=2 * LATER)
    assert max(gaps) == pytest.approx(16 * HELD_SECONDS, abs=2 * LATER)
    assert trials[-1] > now - 17 * HELD_SECONDS


def test_without_a_rate_all_is_allowed() -> None:
    assert RateLimit(None).count_allowed(MiB, time.monotonic()) == MiB


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200), st.integers(1, 10 * MiB))
def test_no_more_than_the_rate_is_ever_read(waits: list[float], rate: int) -> None:
    now = start = time.monotonic()
    throttle, taken = RateLimit(rate), 0
    for wait in waits:
        now += wait
        allowed = throttle.count_allowed(MiB, now)
        throttle.consume(allowed)
        taken += allowed
        assert taken <= rate * (now - start + 0.1) + 1


def test_a_copy_keeps_to_its_rate_and_that_is_no_stall(
    source: Database, target: Database, nothing_left: NothingLeft
) -> None:
    source.execute("CREATE TABLE public.고객 AS SELECT g, repeat('x', 1000) x FROM generate_series(1, 3000) g")
    target.execute("CREATE TABLE public.고객 (g int, x text)")
    for transfer in ("chunked", "sequential"):
        spec = CopySpec.of(
            source_table="public.고객",
            target_table="public.고객",
            transfer=transfer,
            rate_limit=2 * MiB,
            parallel=2,
            publish="delete_insert",  # a swap has one lane
        )
        report = pipeline.copy(spec, source.endpoint, target.endpoint)
        exports = [stage for stage in report.stages if stage.stage == "export"]
        assert report.rows == 3000
        assert len(exports) == 2
        # 2.9 MiB at 2 MiB a second, less what is allowed at once.
        assert max(stage.seconds for stage in exports) >= 1.2
    nothing_left(source, target)


@pytest.mark.parametrize("rate", [0, -1, "fast", True])
def test_a_rate_that_cannot_be_meant_is_refused(rate: object) -> None:
    with pytest.raises(ConfigError, match="rate_limit"):
        CopySpec.of(source_table="a.b", target_table="a.b", rate_limit=rate)

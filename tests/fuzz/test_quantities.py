"""Times, sizes, numbers and shares, as people write them: a value that can be used, or a refusal that repeats it."""

from __future__ import annotations

from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy import display
from airflow_provider_safecopy.cli import param_types
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.lock.model import Promise
from airflow_provider_safecopy.spec import Timeouts
from tests.fuzz.depth import looking
from tests.fuzz.material import AWKWARD, BROKEN, broken, numbers, spoiled
from tests.fuzz.tried import tried

CONTEXT, OPTION = click.Context(click.Command("test")), click.Option(["--option"])
PIECES = (*AWKWARD, *BROKEN, "9" * 400, "9" * 5000, "e", "E9", "_", "inf", "nan", "MiB", "min")
valid = st.sampled_from(
    ("90", "90s", "1.5 h", ".5min", "500ms", "1d", "512MiB", "2 GB", "4", "auto", "이메일=5", "a=b=5%")
)
written = spoiled(valid, PIECES) | broken | numbers
CENTURY = 100 * 366 * 86400


def read(callback: Any, text: str) -> Any:
    """What the option's callback makes of it; None where it refuses, which must say what was written."""
    found = tried(click.BadParameter, lambda: callback(CONTEXT, OPTION, text))
    if isinstance(found, click.BadParameter):
        assert repr(text) in found.message or "not valid" in found.message
        return None
    return found


@looking(3)
@given(written)
def test_a_time_is_one_that_can_be_waited_for(text: str) -> None:
    seconds = read(param_types.seconds, text)
    assert seconds is None or 0 < seconds <= CENTURY
    assert (read(param_types.seconds_or_none, text) or 0) <= CENTURY


@looking(3)
@given(written)
def test_a_size_is_a_number_of_bytes(text: str) -> None:
    size = read(param_types.size, text)
    assert size is None or (isinstance(size, int) and 0 < size < 1 << 80)


@looking(3)
@given(written)
def test_streams_are_a_number_or_auto(text: str) -> None:
    streams = read(param_types.streams, text)
    assert streams in (None, "auto") or 0 < streams < 1 << 31


@looking(2)
@given(st.lists(written, max_size=3))
def test_shares_are_numbers_by_name(values: list[str]) -> None:
    shares = tried(click.BadParameter, lambda: param_types.shares(CONTEXT, OPTION, tuple(values)))
    if isinstance(shares, click.BadParameter):
        assert any(repr(value) in shares.message for value in values) or "not valid" in shares.message
        return
    assert (shares is None) == (not values)
    assert all(name and isinstance(share, float) for name, share in (shares or {}).items())


@looking(2)
@given(st.floats(0, 1e13, allow_subnormal=False))
def test_what_is_shown_of_a_size_is_near_to_it(size: float) -> None:
    found = param_types.parse_bytes(display.format_bytes(size).replace(",", ""))
    assert found is not None
    assert abs(found - size) <= max(1, 0.06 * size)


@looking(2)
@given(st.floats(0, 1e8, allow_subnormal=False))
def test_what_is_shown_of_a_time_is_near_to_it(seconds: float) -> None:
    found = param_types.parse_seconds(display.format_seconds(seconds))
    assert found is not None
    assert abs(found - seconds) <= max(0.051, 0.3 * seconds)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "GB", "1" + "0" * 30 + " TiB"])
def test_a_size_beyond_all_numbers_is_none(text: str) -> None:
    """Found: OverflowError, and a traceback instead of exit code 2."""
    assert param_types.parse_bytes(text) is None


@pytest.mark.parametrize("text", ["9" * 400, "9" * 20, "40000d"])
def test_a_time_beyond_all_clocks_is_none(text: str) -> None:
    """Found: waited for with OverflowError, or refused by the server in the midst of a copy."""
    assert param_types.parse_seconds(text) is None


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 30])
def test_more_streams_than_there_are_numbers_are_refused(text: str) -> None:
    """Found: ValueError, for more digits than Python reads."""
    with pytest.raises(click.BadParameter, match="no number of streams"):
        param_types.streams(CONTEXT, OPTION, text)


@pytest.mark.parametrize("seconds", [30 * 86400, 1e300])
@pytest.mark.parametrize("name", ["connect", "export", "import_", "stall", "verify", "publish"])
def test_a_timeout_longer_than_the_servers_own_may_be_is_refused(name: str, seconds: float) -> None:
    """Found: 30 days were taken, and the export then failed over its own `SET statement_timeout`."""
    with pytest.raises(ConfigError, match=f"{name.rstrip('_')}_timeout=.* must be .* at most"):
        Timeouts(**{name: seconds})


@pytest.mark.parametrize("name", ["stale_after", "crash_grace"])
def test_a_promise_beyond_the_calendar_is_refused(name: str) -> None:
    """Found: `OverflowError` when the moment was told to whoever found the lock busy."""
    with pytest.raises(ConfigError, match=f"{name}="):
        Promise(**{name: 1e300})

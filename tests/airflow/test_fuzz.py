"""What Airflow hands us, of any kind: connections, and what tasks and triggers have told each other."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from tests.fuzz.depth import looking
from tests.fuzz.material import AWKWARD, BROKEN, broken, clean, json_values, spoiled
from tests.fuzz.tried import tried

EXTRA = '{"sslmode": "require", "options": "-c geqo=off", "keepalives": false, "cursor": "dictcursor", "iam": false}'
PIECES = (*AWKWARD, *BROKEN, "null", "NaN", "9" * 5000, "[" * 3000, '"password": "x", ', "{}", "\\ud800", "1e999")
HELD = {
    "lock": "영업",
    "token": 7,
    "lease_id": str(UUID("0a" * 16)),
    "member": "acquire_lock",
    "try": 1,
    "attempt": str(UUID("0b" * 16)),
}


def _endpoint(**fields: Any) -> Endpoint | ConfigError:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_safecopy.hooks.safecopy import build_endpoint

    given_ = {"conn_id": "erp", "conn_type": "postgres", "host": "db"} | fields
    try:
        connection = Connection(**given_)
    except (RecursionError, UnicodeError):  # Airflow 2 reads the extra itself, and refuses in its own way
        reject()
    return tried(ConfigError, lambda: build_endpoint(connection))


@looking()
@given(
    extra=spoiled(st.just(EXTRA), PIECES)
    | st.dictionaries(st.sampled_from(("sslmode", "password", "host")) | broken, json_values, max_size=3).map(
        json.dumps
    )
    | json_values.map(json.dumps)
)
@example(extra="{")
@example(extra="[1]")
@example(extra="[" * 200_000)
@example(extra='{"password": "\\ud800"}')
def test_any_extra_is_an_endpoint_or_refused_by_its_connection(extra: str) -> None:
    """Found: AttributeError for a list, UnicodeEncodeError for a password that is no text; and one that could not be
    read was taken for none, so that a connection that demanded encryption was made without."""
    endpoint = _endpoint(extra=extra)
    if isinstance(endpoint, ConfigError):
        assert "connection 'erp'" in endpoint.message
        return
    endpoint.psql_conninfo().encode()


@looking()
@given(fields=st.fixed_dictionaries({}, optional=dict.fromkeys(("host", "schema", "login", "password"), clean)))
def test_any_fields_are_libpqs_parameters_as_they_stand(fields: dict[str, str]) -> None:
    endpoint = _endpoint(**fields)
    names = {"host": "host", "schema": "dbname", "login": "user", "password": "password"}
    if isinstance(endpoint, ConfigError):
        assert "line break" in endpoint.message
        assert {"\n", "\r"} & set(fields["password"])
        return
    asked = {names[name]: text for name, text in ({"host": "db"} | fields).items() if text}
    assert endpoint.parameters == asked


@looking()
@given(
    held=st.just(HELD)
    | json_values
    | st.dictionaries(st.sampled_from(sorted(HELD)), json_values | broken).map(lambda odd: HELD | odd)
)
@example(held=HELD | {"token": 1 << 64})
@example(held=HELD | {"try": -(1 << 70)})
@example(held={})
@example(held="고객")
def test_whatever_the_first_task_left_names_a_lock_or_none(held: Any) -> None:
    """Found: KeyError and ValueError in the last task of a group, which then freed nothing at all."""
    from airflow_provider_safecopy.operators.living_lock import _read_lock_name

    name = _read_lock_name(held)
    if held == HELD:
        assert name == "영업"
    assert name is None or (name.strip() and "\0" not in name)


@looking()
@given(event=st.none() | st.dictionaries(st.sampled_from(("deadline", "status", "lock")), json_values, max_size=3))
@example(event={"status": "free"})
@example(event={"deadline": float("inf")})
@example(event={"deadline": 10**400})
def test_whatever_a_trigger_told_nobody_waits_longer_than_was_asked(event: dict[str, Any] | None) -> None:
    """Found: KeyError, and OverflowError where the deadline was beyond the calendar."""
    from airflow_provider_safecopy.operators.common import OnBusy

    assert 0 < OnBusy("wait", 60).find_deadline(event) <= time.time() + 60


@looking()
@given(
    done=st.integers(0, 1 << 63),
    expected=st.none() | st.integers(0, 10**120) | st.floats(0, 1e110).map(int),
    seconds=st.floats(0, 1e9),
)
@example(done=100, expected=10**100, seconds=1.0)
def test_whatever_a_planner_expects_progress_is_told(done: int, expected: int | None, seconds: float) -> None:
    """Found: OverflowError, which ended the copy, where a query's plan expected more than could be read in any time."""
    from airflow_provider_safecopy.operators.task_log import _describe_progress
    from airflow_provider_safecopy.spec import Progress

    told = list(_describe_progress(Progress("export", bytes=done, expected_bytes=expected), seconds))
    assert told
    assert not any("-" in word for word in told)


@pytest.mark.parametrize("seconds", [1e300, 10**12])
def test_nobody_can_be_asked_to_wait_beyond_the_calendar(seconds: float) -> None:
    """Found: OverflowError when the task was deferred."""
    from airflow_provider_safecopy.operators.common import OnBusy

    with pytest.raises(ConfigError, match="wait_timeout"):
        OnBusy("wait", seconds)

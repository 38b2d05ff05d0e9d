"""Connection strings and parameters: an endpoint that psql is sent to unchanged, or a refusal that betrays no password."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from tests.fuzz.depth import looking
from tests.fuzz.material import AWKWARD, BROKEN, broken, clean, json_values, spoiled
from tests.fuzz.tried import tried

SECRET = "귀한비밀42"
PIECES = (*AWKWARD, *BROKEN, "%00", "%FF", "%ED%A0%80", "%", "password=", "://", "?", "&", "host=", "//", "''", "\\'")
valid = st.sampled_from(
    (
        "host=erp.example port=5432 dbname='영업 DB' user=복사",
        f"host=/run/x dbname=a password='{SECRET}'",
        f"postgresql://복사:{SECRET}@[::1]:5432,b.example/영업?sslmode=require&options=-c%20a%3Db",
        f"postgres:///db?host=/tmp&password={SECRET}",
        "service=erp",
        "",
    )
)
FREE = ("host", "hostaddr", "dbname", "user", "options", "sslmode", "sslrootcert", "krbsrvname")


@looking(3)
@given(spoiled(valid, PIECES) | broken)
@example("postgresql://h/%FF")
def test_a_connection_string_is_an_endpoint_or_refused_without_its_password(text: str) -> None:
    endpoint = tried(ConfigError, lambda: Endpoint.from_conninfo(text))
    if isinstance(endpoint, ConfigError):
        assert "connection" in endpoint.message or "password" in endpoint.message
        assert SECRET not in str(endpoint)
        assert SECRET not in "".join(traceback.format_exception(endpoint)).partition("Endpoint.from_conninfo(text)")[2]
        return
    if f"password={SECRET}" in text or f"password='{SECRET}" in text:  # a mangled word makes it a host like any other
        assert SECRET not in repr(endpoint)


@looking(2)
@given(st.dictionaries(st.sampled_from(FREE), clean, max_size=5), clean)
def test_psql_is_given_each_parameter_as_it_stands(parameters: dict[str, str], password: str) -> None:
    secret = {"password": password.replace("\n", "").replace("\r", ""), "port": "5432,5433"}
    endpoint = Endpoint.from_parameters(parameters | secret)
    told = conninfo_to_dict(endpoint.psql_conninfo())
    assert {name: told.get(name) for name in parameters if parameters[name]} == {
        name: value for name, value in parameters.items() if value
    }
    assert "password" not in told


@looking(2)
@given(
    st.dictionaries(
        st.sampled_from((*FREE, "port", "password", "servicefile", "연결", "\ud800", "")), json_values, max_size=4
    )
)
def test_parameters_of_any_kind_are_an_endpoint_or_refused_by_name(parameters: dict[str, object]) -> None:
    endpoint = tried(ConfigError, lambda: Endpoint.from_parameters(parameters))
    if isinstance(endpoint, ConfigError):
        assert any(name in endpoint.message for name in parameters)
        return
    endpoint.psql_conninfo().encode()
    endpoint.label.encode()


def test_a_connection_string_with_a_nul_is_refused() -> None:
    """Found: libpq stopped reading at it, and another database than the one meant was connected to."""
    with pytest.raises(ConfigError, match="NUL"):
        Endpoint.from_conninfo("host=erp\0.example dbname=영업")


def test_a_uri_whose_escapes_are_no_text_is_refused() -> None:
    """Found: UnicodeDecodeError, which shows the whole string, password included."""
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        Endpoint.from_conninfo(f"postgresql://복사:{SECRET}@h/%FF")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"host=erp;dbname=영업;password={SECRET}",
        f"host=erp dbname=영업,password={SECRET}",
        f"host=erp user=복사&password = {SECRET}",
        f"host=erp pwd='가 '{SECRET}",
        f"host=erp pass word={SECRET}",
        f"'{SECRET}'",
        f"postgresql://복사:{SECRET}/영업",
        f"postgresql://복사:{SECRET},b.example/영업",
    ],
)
def test_a_mistyped_string_does_not_tell_its_password(text: str) -> None:
    """Found: with semicolons, as other drivers take them, the password became a part of the host, which each error tells."""
    with pytest.raises(ConfigError, match="connection") as caught:
        Endpoint.from_conninfo(text)
    assert SECRET not in str(caught.value)


def test_a_word_libpq_does_not_know_is_told() -> None:
    with pytest.raises(ConfigError, match="hots"):
        Endpoint.from_conninfo("hots=erp dbname=영업")
    with pytest.raises(ConfigError, match="sslmod"):
        Endpoint.from_conninfo("postgresql:///db?sslmod=require")

"""Names of tables and lists of columns, as people write them: read back as they were printed, or refused by name."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.cli import param_types
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.postgres.names import TableName, spell
from tests.fuzz.depth import looking
from tests.fuzz.material import AWKWARD, BROKEN, broken, identifiers, spoiled
from tests.fuzz.tried import tried

tables = st.builds(TableName, st.none() | identifiers, identifiers)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@looking(2)
@given(tables)
def test_a_table_is_read_as_it_was_printed(name: TableName) -> None:
    assert TableName.parse(str(name)) == name


@looking(2)
@given(spoiled(tables.map(str), AWKWARD + BROKEN))
def test_a_spoiled_table_is_another_one_or_refused_with_what_was_written(text: str) -> None:
    name = tried(ConfigError, lambda: TableName.parse(text))
    if isinstance(name, ConfigError):
        assert "table name" in name.message  # and what was written, or the part of it that will not do:
        assert repr(text) in name.message or name.message.count("'") + name.message.count('"') >= 2
        return
    assert TableName.parse(str(name)) == name
    assert spell(name.name).encode()


@looking(2)
@given(st.lists(st.tuples(identifiers, identifiers), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_columns_are_read_as_they_were_printed(pairs: list[tuple[str, str]]) -> None:
    option = " , ".join(f"{quoted(one)} = {quoted(other)}" for one, other in pairs)
    assert param_types.parse([option]) == dict(pairs)
    assert param_types.parse([f"{quoted(one)}={quoted(other)}" for one, other in pairs]) == dict(pairs)
    names = tuple(one for one, _ in pairs)
    assert param_types.names("--key", [",".join(map(quoted, names))]) == names


@looking(2)
@given(
    st.lists(spoiled(st.just('고객번호,"이름" = "cust ""n"",ame",금액=amount'), AWKWARD + BROKEN) | broken, max_size=3)
)
@example([" " * 20_000 + '"'])
@example(['"' + '""' * 20_000])
def test_spoiled_columns_are_others_or_refused_with_what_was_written(options: list[str]) -> None:
    found = tried(ConfigError, lambda: param_types.parse(options))
    if isinstance(found, ConfigError):
        assert "--columns" in found.message
        assert any(repr(option) in found.message for option in options) or "twice" in found.message
        return
    assert (found is None) == (not options)
    assert all(name and target for name, target in (found or {}).items())

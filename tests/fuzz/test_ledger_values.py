"""What the ledger keeps and gives back: shapes of sources. A strange one is no shape, and costs a warning at most."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError
from airflow_provider_safecopy.planning.source_schema import EarlierSchema, SchemaColumn, SourceSchema
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName
from tests.fuzz.depth import looking
from tests.fuzz.material import broken, clean, identifiers, json_values, spoiled
from tests.fuzz.tried import tried
from tests.support.customers import spec
from tests.support.database import Database

columns = st.builds(SchemaColumn, identifiers, clean, clean, st.booleans())
shapes = st.lists(columns, max_size=4).map(tuple).map(SourceSchema)
KEPT = SourceSchema(
    (SchemaColumn("번호", "bigint", "", not_null=True), SchemaColumn("이름", "text", "", not_null=False))
)
PIECES = ("null", "1e999", "NaN", "[" * 3000, "{", '"', '"columns": 5, ', "\\ud800", "true", "9" * 5000)


@looking(2)
@given(shapes, st.sampled_from(("UTF8", "EUC_KR")))
def test_a_shape_is_read_as_it_was_kept(shape: SourceSchema, encoding: str) -> None:
    kept = shape.as_dict(encoding=encoding)
    assert SourceSchema.from_dict(json.loads(json.dumps(kept))) == shape
    assert SourceSchema.from_dict(kept).fingerprint == kept["fingerprint"]
    assert shape.list_differences(shape) == ()


@st.composite
def strange(draw: st.DrawFn) -> Any:
    """What may stand in a receipt where a shape should."""
    kept: dict[str, Any] = json.loads(json.dumps(KEPT.as_dict(encoding="UTF8")))
    for _ in range(draw(st.integers(1, 2))):
        into = draw(st.sampled_from([kept, *(each for each in (kept.get("columns") or []) if isinstance(each, dict))]))
        into[draw(st.sampled_from(["columns", "name", "type", "inner_shape", "not_null"]))] = draw(json_values | broken)
        if not isinstance(kept.get("columns"), list):
            break
    return kept


@looking(3)
@given(
    strange()
    | json_values
    | spoiled(st.just(KEPT.as_dict(encoding="EUC_KR")["columns"]), PIECES).map(lambda text: {"columns": text})
)
@example({"columns": "[" * 200_000})
def test_a_strange_shape_is_a_shape_or_refused_with_a_value_error(kept: Any) -> None:
    shape = tried(ValueError, lambda: SourceSchema.from_dict(kept))
    if isinstance(shape, ValueError):
        return
    told = list(EarlierSchema(shape, 7, "2026-01-01").list_warnings(KEPT, TableName("분석", "고객")))
    assert all(isinstance(line, str) for line in told)
    assert len(shape.fingerprint) == 32


@pytest.fixture
def ends(filled: tuple[Database, Database]) -> tuple[Endpoint, Endpoint]:
    """Both ends of a copy of customers."""
    return filled[0].endpoint, filled[1].endpoint


def test_a_receipt_whose_shape_cannot_be_read_hinders_no_copy(
    filled: tuple[Database, Database], ends: tuple[Endpoint, Endpoint]
) -> None:
    """Found: KeyError, TypeError and the like in each later plan of that table, over what is for a warning alone."""
    pipeline.copy(spec(), *ends)
    update = "UPDATE safecopy.receipt SET proof = jsonb_set(proof, '{shape}', %s::jsonb)"
    for shape in ("5", "[]", "{}", '{"columns": 5}', '{"columns": [{"name": 1}]}', '{"columns": "[["}', '"가"', "null"):
        assert filled[1].execute(update, [shape]) == 1
        plan = pipeline.plan(spec(), *ends)
        assert not plan.refusals, shape
        assert not [warning for warning in plan.warnings if "has changed" in warning]


@pytest.mark.parametrize(
    "asked",
    [{}, {"lookback": "5"}, {"interval_start": "1", "interval_end": "9"}],
    ids=["plain", "lookback", "interval"],
)
def test_a_watermark_that_is_no_value_is_refused_with_the_row_it_stands_in(
    filled: tuple[Database, Database], ends: tuple[Endpoint, Endpoint], asked: dict[str, str]
) -> None:
    """Found: the export failed over it, or what was refused was the lookback or the interval; no word of where it stands.

    The source reads it as the cursor's type; it never becomes SQL.
    """
    later = spec(write_mode="incremental", cursor_column="번호")
    pipeline.copy(later, *ends)
    filled[1].execute("DELETE FROM 영업.고객 WHERE 번호 > 1000")
    ((target, origin),) = filled[1].rows("SELECT target, origin FROM safecopy.watermark")
    for value in ("가'; DROP TABLE 영업.고객 --", "9" * 400, "", "NaN", "1\n", "😀"):
        assert filled[1].execute("UPDATE safecopy.watermark SET value = %s", [value]) == 1
        if value == "1\n":  # blanks around a number are nothing to the server
            assert pipeline.plan(spec(write_mode="incremental", cursor_column="번호", **asked), *ends).refusals == ()
            continue
        with pytest.raises(PlanError) as caught:
            pipeline.copy(spec(write_mode="incremental", cursor_column="번호", **asked), *ends)
        (refusal,) = caught.value.refusals
        assert refusal.code == "bad_watermark"
        assert refusal.message.startswith(f"the watermark {value:.80} is no value of ")
        assert f"target is {target} and whose origin is {origin}" in refusal.hint
        assert filled[1].value("SELECT count(*) FROM 영업.고객") == 1002
    assert filled[1].execute("DELETE FROM safecopy.watermark WHERE target = %s AND origin = %s", [target, origin]) == 1
    assert pipeline.copy(later, *ends).inserted == 1000

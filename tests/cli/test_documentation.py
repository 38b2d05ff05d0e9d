"""`docs/report.md`: real output is what the page says, and would be noticed if it were not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from airflow_provider_safecopy.cli import exitcode
from tests.cli.conftest import Command
from tests.conftest import MakePsql
from tests.support.fake_psql import Behaviour

PAGE = Path(__file__).parents[2] / "docs" / "report.md"
_BLOCK = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCHEMAS = {schema["title"]: schema for schema in map(json.loads, _BLOCK.findall(PAGE.read_text("utf-8")))}


def demand(title: str, found: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMAS[title]).validate(found)


@pytest.mark.parametrize("title", SCHEMAS)
def test_the_page_holds_schemas(title: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[title])


@pytest.mark.parametrize("words", [(), ("--verify", "full"), ("--transfer", "sequential", "--format", "text")])
def test_the_report_of_a_copy(safecopy: Command, words: tuple[str, ...]) -> None:
    report = safecopy.copy("--json", *words).json
    assert report["status"] == "published"
    demand("report", report)


@pytest.mark.parametrize(
    "words", [("--write-mode", "upsert"), ("--write-mode", "incremental", "--cursor-column", "고객번호")]
)
def test_the_report_of_a_copy_by_key(safecopy: Command, words: tuple[str, ...]) -> None:
    report = safecopy.copy("--json", *words).json
    assert report["status"] == "published"
    demand("report", report)


def test_the_report_of_an_append_and_of_its_retry(safecopy: Command) -> None:
    words = ("--write-mode", "append", "--append-key", "11월 19일", "--where", '"고객번호" > 9000')
    reports = [safecopy.copy("--json", *words).json for _ in range(2)]
    assert [report["status"] for report in reports] == ["published", "already_published"]
    for report in reports:
        demand("report", report)
    told = safecopy.copy(*words).out
    assert told.startswith(f"already published at {reports[0]['published_at']}: nothing was copied")
    assert "11월 19일" in told


def test_the_report_of_a_dry_run(safecopy: Command) -> None:
    demand("report", safecopy.copy("--json", "--dry-run").json)


def test_plans(safecopy: Command) -> None:
    demand("plan", safecopy.run("plan", "--json", *safecopy.tables).json)
    refused = safecopy.run("plan", "--json", "--source-table", "영업.고객", "--target-table", "없음").json
    assert refused["status"] == "refused"
    demand("plan", refused)


def test_findings(safecopy: Command) -> None:
    demand("findings", safecopy.run("doctor", "--json", *safecopy.tables).json)
    demand("findings", safecopy.run("doctor", "--json", "--psql", "/nowhere").json)


def test_an_initialisation(safecopy: Command) -> None:
    demand("initialisation", safecopy.run("init", "--json").json)
    demand("initialisation", safecopy.run("init", "--json", "--grant", "postgres").json)


@pytest.mark.parametrize(
    "words, code, kind",
    [
        (("--format", "csv"), 2, "ConfigError"),
        (("--where", "nonsense ("), 2, "PlanError"),
        (("--source", "host=/nowhere"), 5, "StageError"),
        (("--where", '1 / ("고객번호" - 4000) = 0'), 5, "StageError"),
        (("--dry-run", "--columns", "없음"), 2, "PlanError"),
    ],
)
def test_errors(safecopy: Command, words: tuple[str, ...], code: int, kind: str) -> None:
    ran = safecopy.copy("--json", *words)
    assert (ran.code, ran.json["error"]["type"]) == (code, kind)
    demand("error", ran.json)


def test_an_error_with_proofs(safecopy: Command, fake_psql: MakePsql) -> None:
    ran = safecopy.copy("--json", "--psql", fake_psql(Behaviour("export", rows="7")))
    assert ran.json["error"]["type"] == "VerifyError"
    demand("error", ran.json)


def test_the_schemas_would_notice_what_is_wrong(safecopy: Command) -> None:
    report = safecopy.copy("--json").json
    changes: list[dict[str, object]] = [{"rows": None}, {"rows": "5"}, {"extra": 1}, {"status": "done"}, {"stages": []}]
    for change in changes:
        with pytest.raises(jsonschema.ValidationError):
            demand("report", report | change)


def test_the_page_lists_every_exit_code() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)}
    assert listed == {exitcode.DONE, exitcode.INTERNAL, exitcode.UNWRITTEN, *exitcode.ERROR_CODES.values()}

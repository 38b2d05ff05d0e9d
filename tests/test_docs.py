"""What the pages say is true: examples run, tables are complete, links and names lead somewhere, both languages agree."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import pytest

from airflow_provider_safecopy import __version__, errors, pipeline
from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.cli.entry import safecopy
from airflow_provider_safecopy.demo.servers import Installation, installations
from airflow_provider_safecopy.errors import LockLostError, SafeCopyError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Promise
from airflow_provider_safecopy.spec import CopySpec, Progress
from tests import reference
from tests.conftest import MakeRole
from tests.support.content import rows_of
from tests.support.database import Database

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_safecopy"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CELL = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"`([^`]+)`")
_GRANT = re.compile(r"GRANT (?P<privileges>[A-Z, ]+) ON (?P<object>.+?) TO (?P<role>\w+);")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

Row = tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A page of the documentation, taken apart."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its code blocks, in which a number sign is no heading."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        return [body for found, body in _FENCE.findall(self.text) if found == language]

    @property
    def headings(self) -> list[tuple[int, str]]:
        return [(len(signs), title) for signs, title in _HEADING.findall(self.prose)]

    @cached_property
    def tables(self) -> list[list[Row]]:
        """Every table's rows, heads left out."""
        found: list[list[Row]] = [[]]
        for line in self.prose.splitlines():
            if line.startswith("|"):
                found[-1].append(tuple(cell.strip() for cell in _CELL.split(line)[1:-1]))
            elif found[-1]:
                found.append([])
        return [rows[2:] for rows in found if rows]

    def table(self, first: str) -> list[Row]:
        """The table in which a row begins with `first`."""
        (found,) = [rows for rows in self.tables if any(row[0] == first for row in rows)]
        return found


ENGLISH, KOREAN = Page(ROOT / "README.md"), Page(ROOT / "README.ko.md")
README = [ENGLISH, KOREAN]
LOCK = Page(ROOT / "docs" / "lock.md")
PAGES = [*README, Page(ROOT / "CHANGELOG.md"), *map(Page, sorted((ROOT / "docs").rglob("*.md")))]
both = pytest.mark.parametrize("page", README, ids=str)
everywhere = pytest.mark.parametrize("page", PAGES, ids=str)


def commands(page: Page = ENGLISH) -> list[str]:
    """The lines of the shell blocks that begin with `safecopy`. Both languages have the same: see below."""
    return [line for block in page.blocks("sh") for line in block.splitlines() if line.startswith("safecopy ")]


def sql_with(words: str) -> str:
    (found,) = [block for block in ENGLISH.blocks("sql") if words in block]
    return found


# Both languages


def test_both_languages_have_the_same_headings() -> None:
    assert [level for level, _ in ENGLISH.headings] == [level for level, _ in KOREAN.headings]


def test_both_languages_have_the_same_code() -> None:
    for language in ("sh", "sql"):
        assert KOREAN.blocks(language) == ENGLISH.blocks(language)
    assert list(map(_structure, KOREAN.blocks("python"))) == list(map(_structure, ENGLISH.blocks("python")))
    assert len(KOREAN.blocks("text")) == len(ENGLISH.blocks("text"))


def test_both_languages_have_the_same_tables() -> None:
    assert [len(rows) for rows in KOREAN.tables] == [len(rows) for rows in ENGLISH.tables]
    for here, there in zip(ENGLISH.tables, KOREAN.tables, strict=True):
        for row, other in zip(here, there, strict=True):
            assert _CODE.findall(row[0]) == _CODE.findall(other[0])


def test_korean_is_spelled_in_nfc() -> None:
    assert [str(page) for page in PAGES if not unicodedata.is_normalized("NFC", page.text)] == []


def _structure(code: str) -> str:
    return ast.dump(ast.parse(code))


# Where words lead


@everywhere
def test_links_lead_to_files(page: Page) -> None:
    links = [link for link in _LINK.findall(page.prose) if not link.startswith("https://")]
    lost = [link for link in links if not (page.path.parent / link.partition("#")[0]).exists()]
    assert lost == []


@everywhere
def test_anchors_lead_to_headings(page: Page) -> None:
    links = [link for link in _LINK.findall(page.prose) if "#" in link and not link.startswith("https://")]
    for file, _, anchor in (link.partition("#") for link in links):
        there = Page((page.path.parent / file).resolve()) if file else page
        assert anchor in {_anchor(title) for _, title in there.headings}


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@everywhere
def test_tests_that_are_named_exist(page: Page) -> None:
    named = _TEST.findall(page.text)
    lost = [name for file, name in named if not re.search(rf"(?m)^(def {name}\(|{name} = )", (ROOT / file).read_text())]
    assert lost == []


@everywhere
def test_modules_that_are_named_exist(page: Page) -> None:
    named = [word for word in _CODE.findall(page.prose) if re.fullmatch(r"[\w/]+\.(py|sql)|[\w/]+/", word)]
    written = {"dags/customer_copy.py"}  # the reader's own
    lost = [word for word in named if not any((place / word).exists() for place in (ROOT, PACKAGE))]
    assert set(lost) <= written


def test_the_changelog_tells_of_this_version() -> None:
    titles = [title for level, title in Page(ROOT / "CHANGELOG.md").headings if level == 2]
    assert any(re.fullmatch(rf"\[?{re.escape(__version__)}\]? - \d{{4}}-\d\d-\d\d", title) for title in titles)


# Tables


@pytest.fixture(scope="module")
def seen_by_airflow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pages' DAGs as Airflow reads them, and the operator's signature, from a process of its own."""
    home = tmp_path_factory.mktemp("airflow")
    for page in (*README, LOCK):
        for number, block in enumerate(block for block in page.blocks("python") if "SafeCopyOperator" in block):
            folder = home / page.path.name
            folder.mkdir()
            (folder / f"dag_{number}.py").write_text(block, "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SEEN, *(str(home / page.path.name) for page in (*README, LOCK))],
        env=os.environ | {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


_SEEN = """
import inspect, json, logging, sys
logging.disable()
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 2
    from airflow.models.dagbag import DagBag
from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator
bags = [DagBag(folder) for folder in sys.argv[1:]]
parameters = inspect.signature(SafeCopyOperator.__init__).parameters.values()
print(json.dumps({
    "errors": [str(bag.import_errors) for bag in bags if bag.import_errors],
    "dags": [{dag_id: {task.task_id: type(task).__name__ for task in dag.tasks} for dag_id, dag in bag.dags.items()}
             for bag in bags],
    "parameters": {each.name: None if each.default is each.empty else repr(each.default)
                   for each in parameters if each.kind is each.KEYWORD_ONLY},
    "templated": list(SafeCopyOperator.template_fields),
}))
"""


@pytest.mark.slow
def test_airflow_reads_the_dags(seen_by_airflow: Any) -> None:
    assert seen_by_airflow["errors"] == []
    *readme, lock = seen_by_airflow["dags"]
    assert readme == [{"고객_일일_복사": {"고객_복사": "SafeCopyOperator"}}] * 2
    assert lock["영업_야간_적재"].keys() == {
        *("적재.acquire_lock", "적재.고객_복사", "적재.등급_집계", "적재.release_lock")
    }


@both
def test_the_parameters_are_those_of_the_operator(page: Page, seen_by_airflow: Any) -> None:
    rows = page.table("`source_conn_id`")
    listed = {row[0].strip("`"): None if row[2] in {"required", "필수"} else _value(row[2]) for row in rows}
    given = {name: default and _value(default) for name, default in seen_by_airflow["parameters"].items()}
    old = {alias.name for each in CopySpec.options() for alias in each.aliases}
    assert old <= set(given)
    assert listed == {name: default for name, default in given.items() if name not in old}
    required = [row[0].strip("`") for row in rows if row[2] in {"required", "필수"}]
    assert required == [name for name, default in seen_by_airflow["parameters"].items() if default is None]
    templated = {row[0].strip("`") for row in rows if "(templated)" in row[3] or "(템플릿)" in row[3]}
    assert templated == set(seen_by_airflow["templated"])


def _value(written: str) -> object:
    value: object = ast.literal_eval(written.strip("`"))
    return value


@both
def test_the_parameters_are_those_of_the_command(page: Page) -> None:
    shown = [each for each in safecopy.commands["copy"].params if isinstance(each, click.Option) and not each.hidden]
    options = {each.opts[-1]: each for each in shown}
    listed = {row[1].strip("`"): (row[0].strip("`"), row[2]) for row in page.table("`source_conn_id`")}
    assert set(options) - set(listed) == {"--owner", "--json", "--verbose", "--quiet"}
    assert set(listed) <= set(options)
    for each in CopySpec.options():
        name, default = listed[each.flag]
        assert (name, _value(default)) == (each.name, each.default)
    for flag in ("--on-busy", "--wait-timeout"):
        assert str(options[flag].default) in {listed[flag][1].strip('`"'), f"{listed[flag][1].strip('`')}.0"}


def test_the_reference_page_is_up_to_date() -> None:
    assert reference.PAGE.read_text("utf-8") == reference.page(), "run make reference"


def kinds() -> list[type[SafeCopyError]]:
    """Every class of the error tree."""
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SafeCopyError)]


@both
def test_every_error_is_explained(page: Page) -> None:
    explained = [row[0].strip("`") for row in page.table("`StageError`")]
    assert sorted(explained) == sorted(kind.__name__ for kind in kinds())


@both
def test_the_exit_codes_are_those_of_the_command(page: Page) -> None:
    listed = {int(row[0]): sorted(_CODE.findall(row[1])) for row in page.table("130")}
    codes: dict[int, list[str]] = {exitcode.DONE: [], exitcode.UNWRITTEN: []}
    for kind in kinds():
        codes.setdefault(exitcode.find_code(kind.__new__(kind)), []).append(kind.__name__)
    assert listed == {code: sorted(names) for code, names in codes.items()}


@both
def test_every_refusal_is_explained(page: Page) -> None:
    explained = [row[0].strip("`") for row in page.table("`no_such_table`")]
    assert sorted(explained) == sorted(refusal_codes())


def refusal_codes() -> set[str]:
    """The codes of all refusals in the source. A code that is neither a literal nor passed as one fails."""
    trees = [ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    makers = {"Refusal": 0} | {name: at for tree in trees for name, at in _makers(tree)}
    listed = {code for tree in trees for code in _listed(tree)}
    return listed | {code for call in calls for code in _codes(call, makers)}


def _listed(tree: ast.Module) -> Iterator[str]:
    """The codes of a table whose rows begin with one, in modules that look theirs up: ``code, … = _PROBLEMS[…]``."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and ast.unparse(node.targets[0].elts[0]) == "code"
        ):
            table = ast.unparse(node.value).partition("[")[0]
            assigned = [each for each in tree.body if isinstance(each, ast.Assign | ast.AnnAssign)]
            (rows,) = [
                each.value
                for each in assigned
                if ast.unparse(each.target if isinstance(each, ast.AnnAssign) else each.targets[0]) == table
            ]
            assert isinstance(rows, ast.Dict)
            yield from (str(ast.literal_eval(row.elts[0])) for row in rows.values if isinstance(row, ast.Tuple))


def _makers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The functions that pass a parameter of theirs on as a refusal's code, and which parameter it is."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            names = [argument.arg for argument in function.args.args]
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and _name(call) == "Refusal" and ast.unparse(call.args[0]) in names:
                    yield function.name, names.index(ast.unparse(call.args[0]))


def _codes(call: ast.Call, makers: dict[str, int]) -> Iterator[str]:
    if _name(call) in makers:
        code = call.args[makers[_name(call)]]
        if isinstance(code, ast.Constant):
            yield str(code.value)
        else:
            assert isinstance(code, ast.Name), ast.unparse(call)  # passed on, or of a table: see `_makers`, `_listed`


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


@both
def test_make_does_what_is_listed(page: Page) -> None:
    told = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=ROOT, text=True)
    listed = {_CODE.findall(row[0])[0].removeprefix("make ") for row in page.table("`make demo`")}
    assert listed == set(re.findall(r"^ *make ([a-z-]+)", told, re.MULTILINE)) - {"help"}


@both
def test_the_versions_are_those_the_suite_runs_with(page: Page) -> None:
    rows = {row[0]: row[2] for row in page.table("psql")}
    pinned = [re.search(r"^apache-airflow==(.+)$", path.read_text(), re.MULTILINE) for path in _pins()]
    airflow = next(tested for name, tested in rows.items() if name.startswith("Airflow"))
    assert airflow == ", ".join(sorted(match[1] for match in pinned if match))
    assert rows["psql"] == "15, 16, 18"


def _pins() -> list[Path]:
    return sorted((ROOT / ".ci" / "pins").glob("*.txt"))


@both
def test_extras_that_are_named_exist(page: Page) -> None:
    named = {extra for each in re.findall(r"\.\[([\w,]+)\]", page.text) for extra in each.split(",")}
    assert named
    assert named <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


# Examples


CUSTOMERS = CopySpec.of(source_table="영업.고객", target_table="분석.고객")
_SOURCE = """
CREATE SCHEMA 영업;
CREATE TABLE 영업.고객 (고객번호 bigint PRIMARY KEY, 이름 text NOT NULL, 등급 text);
INSERT INTO 영업.고객 VALUES (1, '김하나', '일반'), (2, '이두리', '우수'), (3, '박세찬', NULL);
CREATE TABLE 영업."주문.내역" (주문번호 bigint, 금액 numeric);
INSERT INTO 영업."주문.내역" VALUES (1, 9.5);
"""
_TARGET = """
CREATE SCHEMA 분석;
CREATE TABLE 분석.고객 (고객번호 bigint PRIMARY KEY, 이름 text NOT NULL, 등급 text);
INSERT INTO 분석.고객 VALUES (-1, '옛 고객', NULL);
CREATE TABLE 분석.우수_고객 (번호 bigint, 이름 text);
CREATE TABLE 분석.주문 (주문번호 bigint, 금액 numeric);
CREATE TABLE 분석.일별_주문 (주문번호 bigint, 금액 numeric);
"""


@pytest.fixture
def sales(source: Database, target: Database, monkeypatch: pytest.MonkeyPatch) -> tuple[Database, Database]:
    """The tables the examples speak of, and the two variables that name the databases."""
    source.execute(_SOURCE)
    target.execute(_TARGET)
    monkeypatch.setenv("SAFECOPY_SOURCE", source.conninfo)
    monkeypatch.setenv("SAFECOPY_TARGET", target.conninfo)
    return source, target


@pytest.fixture
def orders_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called orders.sql beside the reader."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.sql").write_text('SELECT * FROM 영업."주문.내역";\n', "utf-8")


@pytest.mark.usefixtures("orders_sql")
@pytest.mark.parametrize("line", [*commands(), *commands(LOCK)])
def test_the_command_accepts_every_line(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = safecopy.commands[name]
    assert isinstance(command.make_context(name, words), click.Context)


@pytest.mark.usefixtures("orders_sql")
def test_every_line_does_its_work(sales: tuple[Database, Database], role: MakeRole) -> None:
    source, target = sales
    loader = role(target).role
    assert len(commands()) > 5
    for line in commands():
        words = shlex.split(line.replace("loader", str(loader)))[1:]
        if "--target" in words:
            words[words.index("--target") + 1] = target.conninfo
        assert safecopy.main(args=words, prog_name="safecopy", standalone_mode=False) == 0, line
    assert rows_of(target, "SELECT * FROM 분석.고객") == rows_of(source, "SELECT * FROM 영업.고객")
    assert rows_of(target, "SELECT * FROM 분석.우수_고객") == ["(2,이두리)"]
    assert rows_of(target, "SELECT * FROM 분석.주문") == rows_of(target, "SELECT * FROM 분석.일별_주문") == ["(1,9.5)"]


def test_every_line_about_the_lock_does_its_work(sales: tuple[Database, Database]) -> None:
    _, target = sales
    assert len(commands(LOCK)) > 5
    for line in commands(LOCK):
        assert safecopy.main(args=shlex.split(line)[1:], prog_name="safecopy", standalone_mode=False) == 0, line
    assert target.value("SELECT count(*) FROM safecopy.receipt") == 3


def test_what_the_lock_s_page_says_of_a_release_is_taken(sales: tuple[Database, Database]) -> None:
    _, target = sales
    (line,) = [code for code in _CODE.findall(LOCK.prose) if code.startswith("safecopy locks release 분석")]
    with target.connect() as session:
        schema.init(session)
    lock = LivingLock("분석.고객", target.endpoint).acquire()
    assert safecopy.main(args=shlex.split(line)[1:], prog_name="safecopy", standalone_mode=False) == 0
    with pytest.raises(LockLostError):
        lock.send_heartbeat(phase=0, count=1)
    lock.release()


def test_every_example_of_the_lock_runs(sales: tuple[Database, Database], capsys: pytest.CaptureFixture[str]) -> None:
    _, target = sales
    with target.connect() as session:
        schema.init(session)
    examples = [block for block in LOCK.blocks("python") if "airflow.providers" not in block]
    assert len(examples) == 3
    for code in examples:
        exec(compile(code, "lock.md", "exec"), {})
    assert capsys.readouterr().out == "batch 0\nbatch 1\nbatch 2\n"
    assert target.value("SELECT count(*) FROM 집계") == 1
    kinds = target.rows("SELECT kind FROM safecopy.lock_event ORDER BY id")
    assert [kind for (kind,) in kinds] == ["grant", "release"] * 2


def test_the_promise_is_what_the_page_says() -> None:
    rows = {row[0].strip("`"): row[1] for row in LOCK.table("`stale_after`")}
    told = {name: float(re.match(r"\d+", rows[name])[0]) for name in ("stale_after", "crash_grace")}  # type: ignore[index]
    assert Promise() == Promise(**told)
    assert CUSTOMERS.patience == told["stale_after"]
    assert (Promise().interval, Promise(stale_after=10).interval) == (5, 2)
    assert (Promise().margin, Promise(stale_after=10).margin) == (30, 1)


def test_every_event_is_explained() -> None:
    explained = {row[0].strip("`") for row in LOCK.table("`grant`")}
    schema_of_events = next(block for block in Page(ROOT / "docs" / "report.md").blocks("json") if '"events"' in block)
    assert explained == set(json.loads(schema_of_events)["properties"]["events"]["items"]["properties"]["kind"]["enum"])
    written = set(re.findall(r"'([a-z-]+)'", (PACKAGE / "sql" / "lock.sql").read_text("utf-8")))
    assert explained - {"force-release", "reap"} <= written


def test_plain_python_copies(sales: tuple[Database, Database], capsys: pytest.CaptureFixture[str]) -> None:
    source, target = sales
    (code,) = [block for block in ENGLISH.blocks("python") if "report = copy(" in block]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "3 rows, token 1\n"
    assert rows_of(target, "SELECT * FROM 분석.고객") == rows_of(source, "SELECT * FROM 영업.고객")


def test_every_query_shows_what_the_page_says(sales: tuple[Database, Database]) -> None:
    source, target = sales
    sessions, progress = sql_with("pg_stat_activity").splitlines()
    seen: list[str] = []

    def look(at: Progress) -> None:
        if at.stage == "publish":
            seen.extend(name for _, name, *_ in target.rows(sessions))
            target.rows(progress)

    report = pipeline.copy(CUSTOMERS, source.endpoint, target.endpoint, owner="읽는 사람", progress=look)
    assert set(seen) == {f"safecopy:{report.attempt}"}
    (row,) = target.rows(sql_with("owner_key"))
    assert row[:5] == ("분석.고객", 1, "읽는 사람", 3, 1)


@pytest.mark.parametrize("installation", installations(), ids=lambda each: f"psql {each.major}")
def test_every_psql_that_is_called_tested_copies(sales: tuple[Database, Database], installation: Installation) -> None:
    source, target = sales
    spec = replace(CUSTOMERS, psql=str(installation.psql))
    assert pipeline.copy(spec, source.endpoint, target.endpoint).rows == 3


# Privileges


@dataclass(frozen=True)
class Granted:
    """The two roles of the page, with what the page grants them, and who grants."""

    source: Database
    target: Database
    reader: Database
    loader: Database

    def plan_refuses(self, spec: CopySpec = CUSTOMERS) -> set[str]:
        return {each.code for each in pipeline.plan(spec, self.reader.endpoint, self.loader.endpoint).refusals}

    def copy(self, spec: CopySpec = CUSTOMERS) -> int | None:
        return pipeline.copy(spec, self.reader.endpoint, self.loader.endpoint).rows

    def run(self, statements: str) -> None:
        """Run statements of the page, with the roles of this test."""
        reader, loader = (f'"{each.role}"' for each in (self.reader, self.loader))
        owner = self.source if "reader" in statements else self.target
        owner.execute(re.sub(r"\breader\b", reader, re.sub(r"\bloader\b", loader, statements)))


@pytest.fixture
def granted(sales: tuple[Database, Database], role: MakeRole) -> Granted:
    source, target = sales
    return Granted(source, target, role(source), role(target))


def grants() -> list[str]:
    """The blocks of the page that grant: on the source, on the target, on the schema safecopy."""
    return [block for block in ENGLISH.blocks("sql") if _GRANT.match(block)]


def test_what_the_page_grants_is_enough_and_all_of_it_is_needed(granted: Granted) -> None:
    assert safecopy.main(args=["init"], prog_name="safecopy", standalone_mode=False) == 0
    assert {"privilege", "not_granted"} <= granted.plan_refuses()
    for block in grants():
        granted.run(block)
    assert granted.plan_refuses() == set()
    for grant in (match for block in grants() for match in _GRANT.finditer(block)):
        for privilege in grant["privileges"].split(", "):
            what = f"{privilege} ON {grant['object']}"
            granted.run(f"REVOKE {what} FROM {grant['role']}")
            assert granted.plan_refuses(), f"{what} is not needed"
            granted.run(f"GRANT {what} TO {grant['role']}")
    assert granted.copy() == 3


def test_init_grants_what_the_page_says(granted: Granted) -> None:
    words = ["init", "--grant", str(granted.loader.role)]
    assert safecopy.main(args=words, prog_name="safecopy", standalone_mode=False) == 0
    (block,) = [block for block in grants() if "safecopy.lock" in block]
    said = {
        (grant["object"].removeprefix("SCHEMA "), privilege)
        for grant in _GRANT.finditer(block)
        for privilege in grant["privileges"].split(", ")
    }
    assert set(granted.target.rows(_HELD, [granted.loader.role] * 2)) == said


_HELD = """
SELECT n.oid::regnamespace::text, a.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) a
WHERE a.grantee = (%s::text)::regrole
UNION ALL
SELECT c.oid::regclass::text, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
WHERE a.grantee = (%s::text)::regrole AND c.relnamespace = 'safecopy'::regnamespace
"""


def test_truncate_takes_the_place_of_delete(granted: Granted) -> None:
    assert safecopy.main(args=["init"], prog_name="safecopy", standalone_mode=False) == 0
    for block in grants():
        granted.run(block.replace("INSERT, DELETE ON 분석", "INSERT, TRUNCATE ON 분석"))
    assert granted.plan_refuses() == {"privilege"}
    assert granted.copy(replace(CUSTOMERS, publish="truncate_insert")) == 3


def test_a_type_of_one_s_own_needs_usage_on_its_schema(granted: Granted) -> None:
    for database in (granted.source, granted.target):
        database.execute("CREATE SCHEMA 공용; CREATE TYPE 공용.등급 AS ENUM ('일반', '우수')")
    granted.source.execute("CREATE TABLE 영업.회원 AS SELECT '우수'::공용.등급 AS 등급")
    granted.target.execute("CREATE TABLE 분석.회원 (등급 공용.등급)")
    assert safecopy.main(args=["init"], prog_name="safecopy", standalone_mode=False) == 0
    for block in grants():
        granted.run(block.replace("고객", "회원"))
    spec = CopySpec.of(source_table="영업.회원", target_table="분석.회원")
    with pytest.raises(SafeCopyError, match="공용"):
        granted.copy(spec)
    granted.run("GRANT USAGE ON SCHEMA 공용 TO loader")
    assert granted.copy(spec) == 1

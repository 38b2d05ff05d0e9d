"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_safecopy"
MODULES = sorted(PACKAGE.rglob("*.py"))
PINS = sorted((ROOT / ".ci" / "pins").glob("airflow-*.txt"))
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "README.ko.md", "CHANGELOG.md", "LICENSE", "Makefile", "docker-compose.yaml"),
    *(".gitignore", ".ci", "dags", "docs", "airflow_provider_safecopy", "tests", "benchmarks"),
}
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line]
# In brackets, so that this file does not find itself.
FOREIGN = re.compile(r"pypi[.]org|python[h]osted|--(extra-)?index[-]url[ =]|/[w]ork/|/opt/[p]ypi")
SQL = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|COPY|CREATE|ALTER|DROP|TRUNCATE|LOCK|GRANT|REVOKE|SET|SHOW|BEGIN|COMMIT"
    r"|ROLLBACK|EXPLAIN|ANALYZE|VACUUM|COMMENT ON|WITH \w+ AS|VALUES|TABLE|DO|CALL)\b(?! [a-z])"
)
CASCADE = re.compile(r"\bCASCADE\b")


def files(directory: Path = ROOT) -> Iterator[Path]:
    """The files that belong to the repository: all that .gitignore does not name."""
    for path in sorted(directory.iterdir()):
        if path.name == ".git" or any(fnmatch.fnmatch(path.name, pattern) for pattern in IGNORED):
            continue
        yield from files(path) if path.is_dir() else [path]


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE if PACKAGE in path.parents else ROOT))


def test_the_top_level_holds_what_it_must_and_nothing_else() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in files()}
    assert found <= TOP_LEVEL
    assert {each for each in TOP_LEVEL if "." in each or each.isupper() or each == "Makefile"} <= found


def test_no_file_speaks_of_a_registry_or_of_the_machine_it_was_written_on() -> None:
    found = [f"{named(path)}: {match[0]}" for path in files() if (match := FOREIGN.search(_text_of(path)))]
    assert found == []


def _text_of(path: Path) -> str:
    """What is in a file; a picture has readable parts, too."""
    return path.read_bytes().decode("utf-8", "replace" if path.suffix == ".png" else "strict")


def test_there_are_pins_for_each_airflow() -> None:
    assert [path.stem for path in PINS] == ["airflow-2.11", "airflow-3.2", "airflow-3.3"]


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.stem)
def test_pins_pin_what_the_project_asks_for(pins: Path) -> None:
    extra = [Requirement(line.partition("#")[0]) for line in pins.with_suffix(".in").read_text().splitlines()]
    _examine(pins, [*_asked(dev=pins.stem == "airflow-3.3"), *extra])


def test_pins_of_the_benchmarks_pin_what_they_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["demo"]]
    asked += project["dependency-groups"]["bench"]
    _examine(ROOT / ".ci" / "pins" / "bench.txt", [Requirement(each) for each in asked])


def _examine(pins: Path, asked: list[Requirement]) -> None:
    pinned: dict[str, list[Requirement]] = {}
    for line in pins.read_text().splitlines():
        requirement = Requirement(line)
        assert re.fullmatch(r"==[^=*]+", str(requirement.specifier)), line
        assert requirement.url is None, line
        pinned.setdefault(_canonical(requirement.name), []).append(requirement)
    for wanted in asked:
        for chosen in pinned[_canonical(wanted.name)]:
            version = str(chosen.specifier).removeprefix("==")
            assert wanted.specifier.contains(version, prereleases=True), f"{wanted} is pinned to {version}"


def _asked(*, dev: bool) -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    groups = project["dependency-groups"]
    lists += [groups["test"], groups["dev"]] if dev else [groups["test"]]
    yield from (Requirement(each) for one in lists for each in one if isinstance(each, str))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_no_module_is_too_long_to_be_read_at_once(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 500


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_sql_is_never_put_together_as_text(module: Path) -> None:
    pasted = [ast.unparse(node) for node in ast.walk(ast.parse(module.read_text())) if _pastes_sql(node)]
    assert pasted == []


@pytest.mark.parametrize(
    ("pastes", "expression"),
    [
        (True, 'f"SELECT * FROM {table}"'),
        (True, 'f"""\n  DELETE FROM {table}"""'),
        (True, '"DROP TABLE {}".format(table)'),
        (True, '"LOCK TABLE " + table'),
        (True, '"COPY %s FROM STDIN" % table'),
        (False, 'SQL("DROP TABLE {}").format(table)'),
        (False, 'f"copy {source} into {target}"'),
        (False, 'f"COPY failed: {error}"'),
        (False, '"SELECT 1"'),
    ],
)
def test_the_search_for_pasted_sql_bites(*, pastes: bool, expression: str) -> None:
    assert any(map(_pastes_sql, ast.walk(ast.parse(expression)))) == pastes


def _pastes_sql(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), _, *_]):
            return bool(SQL.match(text))
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Add() | ast.Mod()):
            return bool(SQL.match(text))
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format" | "replace" | "join")):
            return bool(SQL.match(text))
    return False


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_nothing_waits_by_select(module: Path) -> None:
    """It raises ValueError for descriptors from 1,024 on, which a busy worker has: wait by poll."""
    assert [ast.unparse(node) for node in ast.walk(ast.parse(module.read_text())) if _waits_by_select(node)] == []


@pytest.mark.parametrize(
    ("waits", "statement"),
    [
        (True, "select.select([descriptor], [], [], 1)"),
        (True, "from select import select"),
        (True, "from select import poll, select as wait"),
        (True, "selectors.SelectSelector()"),
        (False, "select.poll()"),
        (False, "from airflow_provider_safecopy.postgres.statements import select"),
        (False, "select(columns)"),
    ],
)
def test_the_search_for_select_bites(*, waits: bool, statement: str) -> None:
    assert any(map(_waits_by_select, ast.walk(ast.parse(statement)))) == waits


def _waits_by_select(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="select"), attr="select") | ast.Attribute(attr="SelectSelector"):
            return True
        case ast.ImportFrom(module="select", names=names):
            return "select" in {each.name for each in names}
    return False


def test_no_statement_cascades() -> None:
    statements = [re.sub(r"--.*", "", path.read_text()) for path in PACKAGE.glob("sql/*.sql")]
    for module in MODULES:
        constants = [node.value for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Constant)]
        statements += [text for text in constants if isinstance(text, str) and SQL.match(text)]
    assert len(statements) > 20
    assert [text for text in statements if CASCADE.search(text)] == []


def test_the_command_line_imports_no_airflow_and_the_package_nothing_heavy() -> None:
    assert "airflow" not in _imported_by("airflow_provider_safecopy.cli")
    assert not {"airflow", "psycopg", "rich", "click"} & _imported_by("airflow_provider_safecopy.get_provider_info")


def _imported_by(module: str) -> set[str]:
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.check_output([sys.executable, "-c", program], text=True).split())


def test_what_is_installed_starts() -> None:
    ours = {each.name: each.load() for each in distribution("airflow-provider-safecopy").entry_points}
    assert set(ours) == {"safecopy", "provider_info"}
    assert callable(ours["safecopy"])
    assert ours["provider_info"]()["package-name"] == "airflow-provider-safecopy"


def test_the_wheel_holds_all_that_is_needed_to_run(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = {".py", ".sql", ".typed"}
    assert held == {
        str(path.relative_to(ROOT)) for path in files(PACKAGE) if path.suffix in kinds or path.name == "py.typed"
    } | {f"{PACKAGE.name}/demo/dags/{path.name}" for path in files(ROOT / "dags")}
    assert any(name.endswith(".sql") for name in held)


def test_make_says_what_it_can_do() -> None:
    told = subprocess.check_output(["make", "--no-print-directory"], cwd=ROOT, text=True)
    assert {"demo", "test", "lint", "test-matrix", "format", "clean", "pins"} <= set(
        re.findall(r"make ([a-z-]+)", told)
    )

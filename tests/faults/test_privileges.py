"""The least privileges README grants are enough for a copy, each of them is needed, and one that lacks is named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.cli.entry import main
from airflow_provider_safecopy.errors import StageError
from tests.conftest import MakeRole, NothingLeft
from tests.faults.invariant import Invariant, said
from tests.support.content import rows_of
from tests.support.database import Database

README = Path(__file__).parents[2] / "README.md"
ROWS = 300
TABLE = "영업.고객"
_SHAPE = f"CREATE SCHEMA 영업; CREATE TABLE {TABLE} (번호 bigint PRIMARY KEY, 이름 text NOT NULL)"
_NEW = f"INSERT INTO {TABLE} SELECT g, '고객 ' || g FROM generate_series(1, {ROWS}) g"
_GRANT = re.compile(r"GRANT (?P<privileges>[A-Z, ]+) ON (?P<object>.+) TO (?P<role>\w+)")
_MODE = re.compile(r'(\w+)="?(\w+)"?')
# What a mode asks for beside itself.
_BESIDE = {"append": ("--append-key", "하루"), "incremental": ("--cursor-column", "번호")}


def blocks() -> list[str]:
    """The statements of the section, block by block. README's target is called as the source is: one name for both sides."""
    (section,) = re.findall(r"^## Privileges$(.*?)^## ", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [
        block.replace("분석", "영업") for block in re.findall(r"^```sql\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    ]


def statements(block: str) -> list[str]:
    """One privilege, or one owner, for each statement."""
    found = []
    for each in filter(None, map(str.strip, re.sub(r"--.*", "", block).split(";"))):
        grant = _GRANT.fullmatch(each)
        privileges = grant["privileges"].split(", ") if grant else []
        found += [f"GRANT {one} ON {grant['object']} TO {grant['role']}" for one in privileges] if grant else [each]
    return found


def modes() -> dict[str, list[str]]:
    """What each way of writing is granted on the target, by the option that asks for it: ``publish=delta``."""
    found = {"publish=delete_insert": statements(_block("SELECT, INSERT, DELETE ON 영업"))}
    for block in blocks():
        head, _, rest = block.partition("\n")
        if head.startswith("--"):
            found |= {f"{option}={value}": statements(rest) for option, value in _MODE.findall(head)}
    return found


def _block(words: str) -> str:
    (found,) = [block for block in blocks() if words in block and not block.startswith("--")]
    return found


READING = statements(_block("reader"))
OURS = statements(_block("safecopy.lock"))
MODES = modes()


def test_every_way_to_write_has_its_grants() -> None:
    assert set(MODES) == {
        *(f"publish={way}" for way in ("swap", "delta", "delete_insert", "truncate_insert")),
        *(f"write_mode={mode}" for mode in ("append", "upsert", "incremental")),
        "create_target=True",
    }


@dataclass(frozen=True)
class Pair:
    """Two databases with nothing for PUBLIC in them, and the two roles of the section."""

    source: Database
    target: Database
    reader: Database
    loader: Database

    def run(self, statement: str) -> None:
        """A statement of the section, with the roles of this test."""
        side = self.source if re.search(r"\breader\b", statement) else self.target
        for name, role in (("reader", self.reader), ("loader", self.loader)):
            statement = re.sub(rf"\b{name}\b", f'"{role.role}"', statement)
        side.execute(statement)

    def undo(self, statement: str) -> None:
        if statement.startswith("ALTER TABLE"):
            self.target.execute(f"ALTER TABLE {TABLE} OWNER TO CURRENT_USER")
        else:
            self.run(re.sub(r"^GRANT (.+) TO (\w+)$", r"REVOKE \1 FROM \2", statement))

    def invariant(self) -> Invariant:
        return Invariant.before(self.source, self.target, ("영업", "고객"))


@pytest.fixture
def pair(source: Database, target: Database, role: MakeRole) -> Iterator[Pair]:
    made = Pair(source, target, role(source), role(target))
    for database, who in ((source, made.reader), (target, made.loader)):
        database.execute(
            f'REVOKE ALL ON DATABASE "{database.name}" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC'
        )
        database.execute(f'GRANT CONNECT ON DATABASE "{database.name}" TO "{who.role}"')
        database.execute(_SHAPE)
    source.execute(_NEW)
    target.execute(f"INSERT INTO {TABLE} VALUES (1, '옛 고객'), (-1, '더 옛 고객')")
    yield made
    target.execute(f"ALTER TABLE IF EXISTS {TABLE} OWNER TO CURRENT_USER")


@dataclass(frozen=True)
class Command:
    """`safecopy`, run by the two roles."""

    pair: Pair
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, dict[str, Any]]:
        with self.monkeypatch.context() as patch:
            patch.setenv("SAFECOPY_SOURCE", self.pair.reader.conninfo)
            patch.setenv("SAFECOPY_TARGET", self.pair.loader.conninfo)
            self.capfd.readouterr()
            code = main([*words, "--json"])
        return code, json.loads(self.capfd.readouterr().out)

    def copy(self, mode: str) -> tuple[int, dict[str, Any]]:
        option, _, value = mode.partition("=")
        flag = f"--{option.replace('_', '-')}"
        asked = (flag,) if value == "True" else (flag, value, *_BESIDE.get(value, ()))
        return self("copy", "--source-table", TABLE, "--target-table", TABLE, *asked)


@pytest.fixture
def command(pair: Pair, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """With the schema safecopy made by an administrator, and nothing granted."""
    run = Command(pair, monkeypatch, capfd)
    with monkeypatch.context() as patch:
        patch.setenv("SAFECOPY_TARGET", pair.target.conninfo)
        assert main(["init"]) == exitcode.DONE
    return run


def demand_named(lacking: str, error: dict[str, Any]) -> None:
    """The error says which privilege is missing, and on what."""
    told = error["message"]
    if lacking.startswith("ALTER TABLE"):
        assert "its owner" in told, told
        assert TABLE in told
        return
    grant = _GRANT.fullmatch(lacking)
    assert grant is not None
    assert re.search(rf"\b{grant['privileges']}\b", told), f"{lacking}: {told}"
    assert grant["object"].removeprefix("SCHEMA ") in told, f"{lacking}: {told}"


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"create_target=True"}))
def test_what_is_granted_is_enough_and_each_of_it_is_needed_and_named(
    pair: Pair, command: Command, nothing_left: NothingLeft, mode: str
) -> None:
    # What every way needs alike is taken away in one of them.
    shared = [*READING, *OURS] if mode == "publish=delete_insert" else []
    for statement in (*READING, *OURS, *MODES[mode]):
        pair.run(statement)
    if "append" in mode:  # what is there already is appended by nobody
        pair.target.execute(f"UPDATE {TABLE} SET 번호 = -2 WHERE 번호 = 1")
    invariant = pair.invariant()
    for lacking in (*shared, *MODES[mode]):
        pair.undo(lacking)
        code, told = command.copy(mode)
        assert code in {2, 5}, f"{lacking}: is not needed"
        demand_named(lacking, told["error"])
        assert not told["error"]["retryable"]
        pair.run(lacking)
    assert invariant.hold("unchanged") == "old"
    code, told = command.copy(mode)
    assert code == exitcode.DONE, told
    if mode.startswith("write_mode"):
        assert pair.target.value(f"SELECT count(*) FROM {TABLE}") == ROWS + (2 if "append" in mode else 1)
    else:
        assert invariant.hold(said(code)) == "new"
    nothing_left(pair.source, pair.target)


def test_making_the_table_needs_no_more_than_is_granted(
    pair: Pair, command: Command, nothing_left: NothingLeft
) -> None:
    pair.target.execute(f"DROP TABLE {TABLE}")
    mode = "create_target=True"
    for statement in (*READING, *OURS, *MODES[mode]):
        pair.run(statement)
    for lacking in MODES[mode]:
        pair.undo(lacking)
        code, told = command.copy(mode)
        assert code == exitcode.REFUSED, f"{lacking}: is not needed"
        demand_named(lacking, told["error"])
        assert pair.target.value(f"SELECT to_regclass('{TABLE}')") is None
        pair.run(lacking)
    assert command.copy(mode)[0] == exitcode.DONE
    assert rows_of(pair.target, f"SELECT * FROM {TABLE}") == rows_of(pair.source, f"SELECT * FROM {TABLE}")
    nothing_left(pair.source, pair.target)


@pytest.mark.parametrize("side", ["reader", "loader"])
def test_a_role_that_may_not_connect_is_told_so(pair: Pair, command: Command, side: str) -> None:
    for statement in (*READING, *OURS, *MODES["publish=delete_insert"]):
        pair.run(statement)
    who = pair.reader if side == "reader" else pair.loader
    owner = pair.source if side == "reader" else pair.target
    owner.execute(f'REVOKE CONNECT ON DATABASE "{who.name}" FROM "{who.role}"')
    invariant = pair.invariant()
    code, told = command.copy("publish=delete_insert")
    assert (code, told["error"]["type"], told["error"]["retryable"]) == (
        exitcode.ERROR_CODES[StageError],
        "StageError",
        False,
    )
    assert "CONNECT" in told["error"]["message"]
    assert who.name in told["error"]["message"]
    assert "CONNECT" in told["error"]["hint"]
    assert invariant.hold(said(code)) == "old"

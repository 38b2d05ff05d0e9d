"""Many tables in one command: what it says, and how it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Ran, ended, wait_for_line
from tests.cli.test_documentation import demand
from tests.conftest import NothingLeft
from tests.support.content import rows_of

NAMES = [f"영업.표_{number}" for number in range(4)]


@pytest.fixture
def listed(safecopy: Command, tmp_path: Path) -> str:
    """A file of four tables of one name on both sides, and the customers, which have another in the target."""
    safecopy.target.execute('CREATE SCHEMA "영업"')
    for name in NAMES:
        for database in (safecopy.source, safecopy.target):
            database.execute(f"CREATE TABLE {name} (번호 int PRIMARY KEY, 이름 text)")
        safecopy.source.execute(f"INSERT INTO {name} VALUES (1, '하나'), (2, '둘')")
    file = tmp_path / "목록.txt"
    file.write_text("\n".join([*NAMES, "영업.고객\t분석.고객"]))
    return str(file)


def held(safecopy: Command) -> list[int]:
    return [safecopy.target.value(f"SELECT count(*) FROM {name}") for name in NAMES]


def copied(safecopy: Command, listed: str, *words: str) -> Ran:
    return safecopy.run("copy", "--tables-from", listed, *words)


def test_all_are_copied_and_told_of(safecopy: Command, listed: str, nothing_left: NothingLeft) -> None:
    ran = copied(safecopy, listed)
    assert (ran.code, held(safecopy), safecopy.holds()) == (0, [2] * 4, "new")
    first, _, head, *rows = ran.out.splitlines()
    assert first.startswith("published: 5 of 5 tables in ")
    assert head.split() == ["table", "status", "rows", "written", "how"]
    assert [row.split()[0] for row in rows] == [*NAMES, "분석.고객"]
    assert "copy 5 small tables of 5 in rounds" in ran.err
    nothing_left(safecopy.source, safecopy.target)


def test_machines_get_one_object(safecopy: Command, listed: str) -> None:
    done = copied(safecopy, listed, "--json").json
    demand("batch", done)
    assert (done["status"], len(done["tables"]), done["failed"]) == ("published", 5, [])
    for report in done["tables"]:
        demand("report", report)
    planned = copied(safecopy, listed, "--json", "--dry-run").json
    demand("batch", planned)
    assert planned["status"] == "planned"


def test_the_exit_code_is_that_of_the_first_that_failed(safecopy: Command, listed: str) -> None:
    safecopy.target.execute("ALTER TABLE 영업.표_1 ADD CHECK (번호 <> 2)")
    ran = copied(safecopy, listed, "--json")
    assert (ran.code, held(safecopy)) == (5, [2, 0, 2, 2])
    demand("batch", ran.json)
    assert ran.json["status"] == "partly"
    assert [each["target"] for each in ran.json["failed"]] == ["영업.표_1"]
    assert "safecopy: publish failed: publish into 영업.표_1 failed" in ran.err
    assert "copy    영업.표_1 -> 영업.표_1" in ran.err


def test_a_refused_one_keeps_all_from_being_copied_unless_the_others_are_to_be(safecopy: Command, listed: str) -> None:
    Path(listed).write_text("\n".join([*NAMES, "영업.없음"]))
    ran = copied(safecopy, listed, "--json")
    assert (ran.code, held(safecopy)) == (2, [0] * 4)
    demand("error", ran.json)
    ran = copied(safecopy, listed, "--keep-going")
    assert (ran.code, held(safecopy)) == (2, [2] * 4)
    assert ran.out.startswith("partly: 4 of 5 tables in ")
    assert safecopy.copy("--keep-going").code == 2


def test_a_busy_one_is_told_skipped_or_waited_for(safecopy: Command, listed: str) -> None:
    assert copied(safecopy, listed).code == 0
    safecopy.target.execute(
        "UPDATE safecopy.lock SET lease_id = gen_random_uuid(), owner_key = '남', owner = '{\"owner\": \"남\"}', "
        'members = \'{"남": {"id": "00000000-0000-0000-0000-000000000001", "try": 1, "detached": true}}\', '
        "alive_at = now(), due_at = now() + '1 h', stale_after = '1 h' WHERE name = '영업.표_2'"
    )
    busy = copied(safecopy, listed, "--json")
    assert (busy.code, busy.json["failed"][0]["error"]["type"]) == (3, "LockBusyError")
    skipped = copied(safecopy, listed, "--json", "--on-busy", "skip")
    assert (skipped.code, skipped.json["status"]) == (0, "published")
    assert [report["status"] for report in skipped.json["tables"]].count("skipped") == 1
    waited = copied(safecopy, listed, "--on-busy", "wait", "--wait-timeout", "3s")
    assert waited.code == 3
    assert "waiting for it" in waited.err


def test_standard_input_and_plans(safecopy: Command, listed: str) -> None:
    text = Path(listed).read_bytes()
    assert safecopy.fed(text, "copy", "--tables-from", "-", "--quiet").code == 0
    plans = safecopy.run("plan", "--tables-from", listed, "--json")
    assert (plans.code, plans.json["status"]) == (0, "planned")
    for plan in plans.json["tables"]:
        demand("plan", plan)
    as_json = json.dumps([*NAMES, "영업.없음"]).encode()
    refused = safecopy.fed(as_json, "plan", "--tables-from", "-")
    assert refused.code == 2
    assert refused.out.count("planned: nothing was touched") == 4


@pytest.mark.parametrize("words", [("--target-table", "표"), ("--source-sql", "select 1"), ("--source-table", "표")])
def test_two_ways_to_say_what_is_copied(safecopy: Command, listed: str, words: tuple[str, ...]) -> None:
    ran = copied(safecopy, listed, *words)
    assert ran.code == 2
    assert "two ways to say what is copied" in ran.err


def test_a_signal_stops_it_and_says_what_was_copied(safecopy: Command, listed: str, nothing_left: NothingLeft) -> None:
    safecopy.target.execute(
        "CREATE FUNCTION 영업.낮잠() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(60); RETURN NULL; END$$;"
        "CREATE TRIGGER 낮잠 BEFORE INSERT ON 영업.표_1 FOR EACH STATEMENT EXECUTE FUNCTION 영업.낮잠()"
    )
    with safecopy.started("copy", "--tables-from", listed, "--json", "-v") as process:
        said = wait_for_line(process, "publish done: 영업.표_0".encode())
        process.send_signal(signal.SIGINT)
        ran = ended(process, said)
    assert ran.code == 130
    assert [report["lock"] for report in ran.json["tables"]] == ["영업.표_0"]
    assert {each["error"]["type"] for each in ran.json["failed"]} == {"AbortedError"}
    assert held(safecopy) == [2, 0, 0, 0]
    assert rows_of(safecopy.target, "TABLE 분석.고객") == ['(-1,"옛 고객",1.00)']
    nothing_left(safecopy.source, safecopy.target)

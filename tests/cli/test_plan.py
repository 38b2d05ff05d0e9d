"""`safecopy plan`: decisions, refusals, locks and the exact SQL; nothing is touched."""

from __future__ import annotations

import re

from tests.cli.conftest import Command


def test_a_plan_shows_decisions_locks_and_the_exact_sql(safecopy: Command) -> None:
    asked = ("--where", '"잔액" > 10', "--columns", "고객번호,이름=이름", "--publish", "delete_insert")
    ran = safecopy.run("plan", *safecopy.tables, *asked)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("planned: nothing was touched\n")
    for words in ("because   format ", "because   transfer ", "because   publish ", "lock      분석.고객"):
        assert words in ran.out
    assert re.search(r"-- export, on the source; lock: ACCESS SHARE\n  COPY \(", ran.out)
    assert re.search(r"-- publish, on the target; lock: SHARE ROW EXCLUSIVE\n  DELETE FROM", ran.out)
    assert '"잔액" > 10' in ran.out
    assert safecopy.holds() == "old"
    assert not safecopy.target.value("SELECT to_regnamespace('safecopy') IS NOT NULL")


def test_the_sql_shown_is_sql_the_servers_understand(safecopy: Command) -> None:
    steps = safecopy.run("plan", "--json", *safecopy.tables).json["steps"]
    assert [step["database"] for step in steps if step["stage"] in {"export", "import"}] == [
        "target",
        "source",
        "target",
    ]
    assert {step["database"] for step in steps if step["stage"] not in {"export", "import"}} == {"target"}
    (export,) = [step["sql"] for step in steps if step["stage"] == "export"]
    read: list[bytes] = []
    with safecopy.source.connect() as session, session.cursor() as cursor:
        for statement in (export, 'COPY (SELECT * FROM "영업"."고객") TO STDOUT (FORMAT text)'):
            with cursor.copy(statement.encode()) as copy:
                read.append(b"".join(copy))
    assert read[0] == read[1]


def test_a_refused_plan_is_2_with_every_reason_and_its_next_step(safecopy: Command) -> None:
    safecopy.target.execute('ALTER TABLE "분석"."고객" ALTER "잔액" TYPE numeric(6,1), ALTER "이름" TYPE varchar(10)')
    ran = safecopy.run("plan", *safecopy.tables)
    assert ran.code == 2
    assert ran.out.startswith("refused: nothing was touched\n")
    assert len(re.findall(r"^  refused   .*(잔액|이름)", ran.out, re.MULTILINE)) == 2
    assert len(re.findall(r"^  next      .*make them equal", ran.out, re.MULTILINE)) == 2
    assert "SQL, in order" not in ran.out


def test_an_unreachable_server_is_an_error_and_no_plan(safecopy: Command) -> None:
    ran = safecopy.run("plan", "--json", *safecopy.tables, "--source", "host=/nowhere")
    assert (ran.code, ran.json["error"]["stage"]) == (5, "connect")

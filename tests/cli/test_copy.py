"""`safecopy copy`: its result, its errors with their exit codes from real causes, and how it is stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.cli.conftest import COMMAND, ROWS, Command, ended, wait_for_line
from tests.cli.terminal import on_a_terminal
from tests.conftest import MakePsql, MakeRole, NothingLeft
from tests.support.database import Database
from tests.support.fake_psql import Behaviour
from tests.support.proxy import Proxy

HANGING = Behaviour("export", hang_after=100_000)
TAKEN = """
UPDATE safecopy.lock SET token = token + 1, lease_id = NULL, owner_key = NULL, members = '{}';
DELETE FROM safecopy.member
"""
PATIENCE = """
import sys
from airflow_provider_safecopy.publish import transaction
transaction._SETTLE_SECONDS = 1.0  # who asks for a lost receipt gives up soon
from airflow_provider_safecopy.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_copy_publishes_and_says_what_it_did(safecopy: Command) -> None:
    ran = safecopy.copy()
    assert ran.code == 0, ran.err
    assert safecopy.holds() == "new"
    assert "영업.고객" in ran.out
    assert re.search(rf"rows +1 -> {ROWS:,}\n", ran.out)
    assert re.search(rf"export +\d\.\d\d +{ROWS:,} +\S+ KiB +\d+ +0\n", ran.out)
    assert re.search(rf"publish +\d\.\d\d +{ROWS:,}", ran.out)
    assert "because   publish swap" in ran.out
    assert "export started (PID " in ran.err


def test_json_is_one_object_on_stdout_and_the_rest_on_stderr(safecopy: Command) -> None:
    ran = safecopy.copy("--json", "--verify", "full", "--transfer", "sequential", "--owner", "야간 작업")
    assert ran.code == 0, ran.err
    report = ran.json
    assert ran.raw_out.count(b"\n") == 1
    assert (report["status"], report["rows"], report["previous_rows"]) == ("published", ROWS, 1)
    assert "영업.고객".encode() in ran.raw_out
    assert [stage["stage"] for stage in report["stages"]] == ["export", "import", "verify", "prepare", "publish"]
    assert report["content_hash"]
    assert "export done" in ran.err
    query = "SELECT owner_key FROM safecopy.receipt WHERE token = %s"
    assert safecopy.target.value(query, [report["token"]]) == "야간 작업"


def test_quiet_says_nothing_of_a_copy_that_went_well(safecopy: Command) -> None:
    ran = safecopy.copy("-q")
    assert (ran.code, ran.raw_out, ran.raw_err) == (0, b"", b"")
    assert safecopy.holds() == "new"


def test_a_dry_run_plans_and_touches_nothing(safecopy: Command) -> None:
    ran = safecopy.copy("--dry-run")
    assert ran.code == 0, ran.err
    assert "planned: nothing was touched" in ran.out
    assert safecopy.copy("--dry-run", "--json").json["status"] == "planned"
    assert safecopy.holds() == "old"
    assert not safecopy.target.value("SELECT to_regnamespace('safecopy') IS NOT NULL")


def test_a_query_comes_from_a_file_or_from_standard_input(safecopy: Command, query: Path) -> None:
    for words, given in ((f"@{query}", b""), ("@-", query.read_bytes())):
        safecopy.target.execute('DELETE FROM "분석"."고객"')
        ran = safecopy.fed(given, "copy", "--source-sql", words, "--target-table", "분석.고객", "--where", "true")
        assert ran.code == 0, ran.err
        assert safecopy.holds() == "new"


def test_columns_are_chosen_and_renamed_whatever_their_names_hold(safecopy: Command) -> None:
    safecopy.target.execute('CREATE TABLE "분석"."이름=들" ("이름, 성" text, "a=b" bigint)')
    columns = ("--columns", '이름="이름, 성"', "--columns", '고객번호="a=b"')
    ran = safecopy.run("copy", "--source-table", "영업.고객", "--target-table", "분석.이름=들", *columns)
    assert ran.code == 0, ran.err
    assert safecopy.target.value('SELECT sum("a=b") FROM "분석"."이름=들"') == ROWS * (ROWS + 1) // 2


def test_every_option_reaches_the_copy(safecopy: Command, tmp_path: Path, psql: str) -> None:
    options = (
        *("--transfer", "sequential", "--format", "text", "--publish", "truncate_insert", "--verify", "full"),
        *("--connect-timeout", "5", "--export-timeout", "1min", "--import-timeout", "90s", "--stall-timeout", "30"),
        *("--verify-timeout", "1h", "--publish-timeout", "60", "--spool-dir", str(tmp_path), "--spool-limit", "512MiB"),
        *("--stale-after", "20min", "--connect-interval", "50ms", "--on-busy", "wait", "--wait-timeout", "1min"),
        *("--lock", "밤샘", "--owner", "나", "--min-rows", "0", "--psql", psql, "--where", "true"),
    )
    report = safecopy.copy(*options, "--json", SAFECOPY_PSQL="/nowhere").json
    assert (report["status"], report["transfer"], report["format"]) == ("published", "sequential", "text")
    assert (report["publish"], report["lock"]) == ("truncate_insert", "밤샘")
    assert report["spool_bytes"] > 0


@pytest.mark.parametrize(
    "words",
    [
        ("--format", "csv"),
        ("--stall-timeout", "0"),
        ("--stall-timeout", "soon"),
        ("--spool-limit", "512M"),
        ("--columns", "이름,,잔액"),
        ("--columns", "이름=a,잔액=a"),
        ("--source-sql", "SELECT 1"),
        ("--source-sql", "@/nowhere/at/all.sql"),
        ("--lock", " "),
        ("--stale-after", "0"),
        ("--on-busy", "push"),
        ("--wait-timeout", "never"),
        ("--no-such-option",),
        ("--source", "host=127.0.0.1 nonsense=1"),
        ("--psql", "/nowhere/psql"),
    ],
)
def test_a_bad_request_is_2_also_in_json(safecopy: Command, words: tuple[str, ...]) -> None:
    ran = safecopy.copy(*words)
    assert (ran.code, ran.raw_out) == (2, b"")
    assert ran.err.startswith("safecopy: ")
    assert "Traceback" not in ran.err
    error = safecopy.copy(*words, "--json").json
    assert error["status"] == "error"
    assert error["error"]["type"] in {"ConfigError", "PlanError"}
    assert safecopy.holds() == "old"


def test_a_missing_endpoint_names_option_and_variable(safecopy: Command) -> None:
    ran = safecopy.copy(SAFECOPY_TARGET=None)
    assert ran.code == 2
    assert "Missing option '--target' (or set SAFECOPY_TARGET)." in ran.err


@pytest.mark.slow
def test_a_refused_plan_is_2_and_names_the_table_and_the_next_step(safecopy: Command) -> None:
    ran = safecopy.run("copy", "--source-table", "영업.고객", "--target-table", "분석.거래처")
    assert ran.code == 2
    assert "refused: nothing was touched" in ran.err
    assert "분석.거래처: no such table" in ran.err
    assert re.search(r"next +\S", ran.err)
    assert "Traceback" not in ran.err
    refused = safecopy.run("copy", "--source-table", "영업.고객", "--target-table", "분석.거래처", "--json").json
    assert refused["error"]["refusals"][0]["code"] == "no_such_table"


@pytest.mark.slow
def test_an_empty_source_is_refused_unless_it_is_meant(safecopy: Command) -> None:
    safecopy.source.execute('DELETE FROM "영업"."고객"')
    assert safecopy.copy().code == 2
    assert safecopy.holds() == "old"
    assert safecopy.copy("--min-rows", "0").code == 0
    assert safecopy.holds() == "new"


@pytest.mark.slow
def test_a_run_whose_lock_was_taken_away_may_not_publish_4(safecopy: Command, nothing_left: NothingLeft) -> None:
    with safecopy.target.connect() as blocker:
        blocker.execute("BEGIN")
        blocker.execute('LOCK TABLE "분석"."고객" IN ROW EXCLUSIVE MODE')
        with safecopy.started("copy", *safecopy.tables, "--json") as process:
            said = wait_for_line(process, b"verify done")
            safecopy.target.execute(TAKEN)
            blocker.execute("COMMIT")
            ran = ended(process, said)
    assert ran.code == 4, ran.err
    # The fence finds it out, unless a heartbeat was sooner.
    assert ran.json["error"]["type"] in {"FencedOutError", "LockLostError"}
    assert re.search(r"safecopy: (fenced out|lock lost): lock 분석.고객: ", ran.err)
    assert safecopy.holds() == "old"
    nothing_left(safecopy.source, safecopy.target)


@pytest.mark.parametrize("stage", ["export", "import"])
def test_a_failed_stage_is_5_and_says_which(safecopy: Command, fake_psql: MakePsql, stage: str) -> None:
    psql = fake_psql(Behaviour(stage, die_after=1000))  # type: ignore[arg-type]
    ran = safecopy.copy("--psql", psql)
    assert ran.code == 5
    assert f"safecopy: {stage} failed: " in ran.err
    assert re.search(r"copy +영업.고객 -> 분석.고객\n", ran.err)
    assert re.search(rf"stage +{stage} \(psql exit code -9\)\n", ran.err)
    assert re.search(r"target +unchanged", ran.err)
    error = safecopy.copy("--psql", psql, "--json").json["error"]
    assert (error["type"], error["stage"], error["exit_code"], error["retryable"]) == ("StageError", stage, -9, True)
    assert safecopy.holds() == "old"


def test_an_error_of_the_server_is_5_with_its_sqlstate(safecopy: Command) -> None:
    ran = safecopy.copy("--where", '1 / ("고객번호" - 4000) = 0')
    assert ran.code == 5
    assert "SQLSTATE 22012" in ran.err
    assert re.search(r"next +the same command will fail again", ran.err)


@pytest.mark.parametrize(
    "words, kind", [(("--stall-timeout", "500ms"), "StalledError"), (("--export-timeout", "1"), "StageTimeoutError")]
)
def test_a_stage_that_hangs_is_ended_in_time_with_5(
    safecopy: Command, fake_psql: MakePsql, nothing_left: NothingLeft, words: tuple[str, ...], kind: str
) -> None:
    began = time.monotonic()
    ran = safecopy.copy("--psql", fake_psql(HANGING), *words, "--json")
    assert (ran.code, ran.json["error"]["type"]) == (5, kind)
    assert time.monotonic() - began < 20
    nothing_left(safecopy.source, safecopy.target)


def test_an_unreachable_server_is_5_at_connect(safecopy: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listened on
        nowhere = f"host=127.0.0.1 port={taken.getsockname()[1]} dbname=dw user=nobody"
        ran = safecopy.copy("--target", nowhere, "--json")
    assert (ran.code, ran.json["error"]["stage"]) == (5, "connect")


@pytest.mark.slow
def test_a_wrong_password_is_5_and_never_shown(safecopy: Command) -> None:
    conninfo = re.sub(r"password=\S+", "password=비밀번호-틀림", safecopy.source.conninfo)
    for words in ((), ("-v", "-v"), ("--json",)):
        ran = safecopy.copy(*words, SAFECOPY_SOURCE=conninfo)
        assert (ran.code, "password" in ran.err) == (5, True)
        assert "비밀번호-틀림" not in ran.out + ran.err


def test_a_password_on_the_command_line_works_with_a_warning_that_does_not_repeat_it(safecopy: Command) -> None:
    ran = safecopy.copy("--source", safecopy.source.conninfo, "-q")
    assert ran.code == 0
    assert "the password in --source is visible" in ran.err
    assert "PGPASSFILE" in ran.err
    assert "SAFECOPY_SOURCE" in ran.err
    assert password_of(safecopy.source) not in ran.out + ran.err


@pytest.mark.slow
def test_a_password_file_needs_no_warning(safecopy: Command, tmp_path: Path) -> None:
    passfile = tmp_path / "암호"
    passfile.write_text(f"*:*:*:*:{password_of(safecopy.source)}\n")
    passfile.chmod(0o600)
    conninfo = re.sub(r"password=\S+", "", safecopy.source.conninfo)
    ran = safecopy.copy("--source", conninfo, "-q", PGPASSFILE=str(passfile))
    assert (ran.code, ran.err) == (0, "")


def test_no_word_of_a_copy_holds_a_password(safecopy: Command) -> None:
    ran = safecopy.copy("-v", "-v")
    assert ran.code == 0
    for database in (safecopy.source, safecopy.target):
        assert password_of(database) not in ran.out + ran.err


def test_a_schema_of_another_make_is_5(safecopy: Command) -> None:
    safecopy.target.execute("CREATE SCHEMA safecopy; CREATE TABLE safecopy.lock (name text, members text)")
    ran = safecopy.copy("--json")
    assert (ran.code, ran.json["error"]["type"]) == (5, "LockStoreError")
    assert safecopy.holds() == "old"


@pytest.mark.slow
def test_a_garbled_row_is_6(safecopy: Command, fake_psql: MakePsql) -> None:
    psql = fake_psql(Behaviour("import", flip_at=100_000))
    ran = safecopy.copy("--psql", psql, "--verify", "full")
    assert ran.code == 6, ran.err
    assert "verification failed" in ran.err
    assert re.search(r"proof +\S", ran.err)
    error = safecopy.copy("--psql", psql, "--verify", "full", "--json").json["error"]
    assert (error["type"], error["stage"]) == ("VerifyError", "verify")
    assert error["proofs"]
    assert safecopy.holds() == "old"


@pytest.mark.slow
def test_a_commit_nobody_can_ask_about_is_7(safecopy: Command, proxy: Callable[[Database], Proxy]) -> None:
    wire = proxy(safecopy.target)
    impatient = safecopy.instead(sys.executable, "-c", PATIENCE)
    through = safecopy.target.through(wire.port).conninfo
    name = safecopy.target.name
    # Whose next COMMIT is the publish's: a swap commits before, while it builds.
    words = ("copy", *safecopy.tables, "--publish", "delta", "--json")
    with safecopy.target.connect() as blocker:
        blocker.execute("BEGIN")
        blocker.execute('LOCK TABLE "분석"."고객" IN ROW EXCLUSIVE MODE')
        with impatient.started(*words, SAFECOPY_TARGET=through) as process:
            said = wait_for_line(process, b"verify done")
            safecopy.target.server.execute("postgres", f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            wire.lose_answer_after(b"COMMIT\0")
            blocker.execute("COMMIT")
            ran = ended(process, said)
    safecopy.target.server.execute("postgres", f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert ran.code == 7, ran.err
    assert ran.json["error"]["type"] == "PublishUnknownError"
    assert re.search(r"target +old rows or new rows", ran.err)
    assert "safecopy.receipt" in ran.err
    assert safecopy.holds() == "new"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_copy_in_order_with_130(
    safecopy: Command, fake_psql: MakePsql, nothing_left: NothingLeft, number: signal.Signals
) -> None:
    with safecopy.started("copy", *safecopy.tables, "--psql", fake_psql(HANGING), "--json") as process:
        said = wait_for_line(process, b"export started")
        process.send_signal(number)
        ran = ended(process, said)
    assert ran.code == 130, ran.err
    assert ran.json["error"] == {
        "type": "AbortedError",
        "message": f"aborted: {number.name}",
        "hint": "",
        "retryable": True,
        "reason": number.name,
    }
    assert "stopping, please wait" in ran.err
    assert safecopy.holds() == "old"
    nothing_left(safecopy.source, safecopy.target)


@pytest.mark.slow
def test_a_second_ctrl_c_is_as_safe_as_the_first(
    safecopy: Command, fake_psql: MakePsql, nothing_left: NothingLeft
) -> None:
    stubborn = Behaviour("export", hang_after=100_000, stubborn=True)  # so that ending it takes a while
    with safecopy.started("copy", *safecopy.tables, "--psql", fake_psql(stubborn)) as process:
        said = wait_for_line(process, b"export started")
        process.send_signal(signal.SIGINT)
        said += wait_for_line(process, b"stopping, please wait")
        for _ in range(5):
            process.send_signal(signal.SIGINT)
        ran = ended(process, said)
    assert ran.code == 130, ran.err
    assert ran.err.count("stopping, please wait") == 1
    assert "Traceback" not in ran.err
    assert safecopy.holds() == "old"
    nothing_left(safecopy.source, safecopy.target)


def test_a_copy_that_ignores_hangups_goes_on(safecopy: Command, fake_psql: MakePsql) -> None:
    nohup = safecopy.instead("nohup", *COMMAND)
    with nohup.started("copy", *safecopy.tables, "--psql", fake_psql(HANGING), "--stall-timeout", "2") as process:
        said = wait_for_line(process, b"export started")
        process.send_signal(signal.SIGHUP)
        ran = ended(process, said)
    assert ran.code == 5, ran.err  # it stalled, and was not aborted


def test_a_report_that_cannot_be_written_takes_nothing_back(safecopy: Command) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "copy", *safecopy.tables, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=dict(safecopy.environment),
            check=False,
            timeout=100,
        )
    assert done.returncode == 8
    assert b"the result could not be written to stdout: No space left on device" in done.stderr
    assert safecopy.holds() == "new"


def test_a_reader_of_the_log_who_leaves_does_not_stop_the_copy(safecopy: Command) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, "copy", *safecopy.tables, "--json"],
            stdout=subprocess.PIPE,
            stderr=closed,
            env=dict(safecopy.environment),
            check=False,
            timeout=100,
        )
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "published")


def test_a_terminal_shows_a_bar_for_each_stage(safecopy: Command) -> None:
    with on_a_terminal([*COMMAND, "copy", *safecopy.tables], {**safecopy.environment, "TERM": "xterm"}) as terminal:
        assert terminal.ends() == 0, terminal.said
    for stage in ("export", "import", "verify", "publish"):
        assert re.search(rf"{stage} +(\x1b\[[\d;]*m)*━", terminal.said), terminal.said
    assert re.search(rf"export[^\r\n]* {ROWS:,} rows, [^\r\n]* KiB", terminal.said), terminal.said
    assert "export started" not in terminal.said


def test_a_bar_shows_bytes_and_rate_and_ctrl_c_on_a_terminal_ends_the_copy_in_order(
    safecopy: Command, fake_psql: MakePsql, nothing_left: NothingLeft
) -> None:
    command = [*COMMAND, "copy", *safecopy.tables, "--psql", fake_psql(HANGING)]
    with on_a_terminal(command, {**safecopy.environment, "TERM": "xterm"}) as terminal:
        terminal.wait_for("KiB/s")
        terminal.press_ctrl_c()  # which psql gets as well
        assert terminal.ends() == 130, terminal.said
    assert re.search(r"export[^\r\n]* 97\.7 KiB, [\d.]+ KiB/s", terminal.said), terminal.said
    assert "safecopy: aborted: SIGINT" in terminal.said
    assert terminal.said.count("\x1b[?25l") == terminal.said.count("\x1b[?25h")  # the cursor is back
    assert safecopy.holds() == "old"
    nothing_left(safecopy.source, safecopy.target)


def test_ctrl_c_while_connecting_is_an_abort_too(safecopy: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = f"host=127.0.0.1 port={silent.getsockname()[1]} user=nobody dbname=dw"
        words = ("--target", nowhere, "--connect-timeout", "2", "--json")
        with safecopy.started("copy", *safecopy.tables, *words) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                ran = ended(process)
    assert (ran.code, ran.json["error"]["type"]) == (130, "AbortedError")


def test_what_is_no_terminal_shows_plain_lines(safecopy: Command) -> None:
    ran = safecopy.copy()
    assert "\x1b" not in ran.err + ran.out
    assert "━" not in ran.err


def test_two_v_show_the_traceback_of_an_error(safecopy: Command) -> None:
    ran = safecopy.copy("-vv", "--psql", "/nowhere/psql")
    assert ran.code == 2
    assert "Traceback (most recent call last)" in ran.err


def test_a_role_without_rights_is_refused_with_what_it_lacks(safecopy: Command, role: MakeRole) -> None:
    stranger = role(safecopy.target)
    ran = safecopy.copy(SAFECOPY_TARGET=stranger.conninfo)
    assert ran.code == 2
    assert str(stranger.role) in ran.err


def password_of(database: Database) -> str:
    return str(conninfo_to_dict(database.conninfo)["password"])

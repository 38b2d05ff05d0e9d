"""psql dies, hangs, garbles and lies: the target holds the old rows, and the error says which stage and why."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from airflow_provider_safecopy.errors import StageError, StageTimeoutError, StalledError, VerifyError
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Timeouts
from tests.conftest import MakePsql
from tests.faults.conftest import Ground
from tests.faults.trial import GRACE, QUICK, ROWS, Trial
from tests.support.customers import TABLE
from tests.support.database import Database
from tests.support.fake_psql import Behaviour, Stage
from tests.support.memory import growth

# The stream of the ground's table in text is about 1.1 MB.
STREAM = 1_100_000
FRACTIONS = [0, 1, 4096, *(STREAM * part // 10 for part in range(1, 10)), STREAM * 2]


@pytest.mark.parametrize("die_after", FRACTIONS)
@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
def test_an_export_killed_after_any_fraction_of_the_stream_commits_nothing(
    ground: Ground, fake_psql: MakePsql, transfer: str, die_after: int
) -> None:
    psql = fake_psql(Behaviour("export", die_after=die_after))
    with pytest.raises(StageError) as caught:
        ground.copy(psql=psql, transfer=transfer)
    assert (caught.value.stage, caught.value.exit_code) == ("export", -signal.SIGKILL)
    assert caught.value.retryable
    ground.demand("old")


@pytest.mark.parametrize("exit_code", [1, 2, 3, 137])
@pytest.mark.parametrize("stage", ["export", "import"])
def test_any_exit_code_but_zero_fails_the_stage(
    ground: Ground, fake_psql: MakePsql, stage: Stage, exit_code: int
) -> None:
    with pytest.raises(StageError) as caught:
        ground.copy(psql=fake_psql(Behaviour(stage, die_after=300_000, exit_code=exit_code)), transfer="chunked")
    assert (caught.value.stage, caught.value.exit_code) == (stage, exit_code)
    ground.demand("old")


@pytest.mark.parametrize("die_after", [0, 300_000, STREAM * 2])
@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
def test_a_killed_import_rolls_back(ground: Ground, fake_psql: MakePsql, transfer: str, die_after: int) -> None:
    with pytest.raises(StageError) as caught:
        ground.copy(psql=fake_psql(Behaviour("import", die_after=die_after)), transfer=transfer)
    assert caught.value.stage == "import"
    ground.demand("old")


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour("export", hang_at="start"),
        Behaviour("export", hang_after=300_000),
        Behaviour("export", hang_after=300_000, stubborn=True),
        Behaviour("export", hang_at="eof"),
        Behaviour("export", hang_at="exit"),
        Behaviour("import", hang_at="start"),
        Behaviour("import", hang_after=300_000),
        Behaviour("import", hang_after=300_000, stubborn=True),
        Behaviour("import", hang_at="eof"),
        Behaviour("import", hang_at="exit"),
    ],
    ids=str,
)
@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
def test_a_stage_in_which_no_byte_moves_is_ended(
    ground: Ground, fake_psql: MakePsql, transfer: str, behaviour: Behaviour
) -> None:
    started = time.monotonic()
    with pytest.raises(StalledError) as caught:
        ground.copy(psql=fake_psql(behaviour), transfer=transfer, timeouts=Timeouts(stall=1))
    assert caught.value.stage == behaviour.stage
    assert caught.value.retryable
    assert time.monotonic() - started < 1 + 40
    # Whatever it hung in, the import had not been told to commit, or had committed to staging only.
    ground.demand("old")


@pytest.mark.parametrize("stage", ["export", "import"])
def test_a_stage_that_outlives_its_own_timeout_is_ended(ground: Ground, fake_psql: MakePsql, stage: Stage) -> None:
    timeouts = Timeouts(export=1) if stage == "export" else Timeouts(import_=1)
    with pytest.raises(StageTimeoutError, match="timeout of 1 s") as caught:
        ground.copy(psql=fake_psql(Behaviour(stage, hang_after=300_000)), transfer="chunked", timeouts=timeouts)
    assert caught.value.stage == stage
    ground.demand("old")


@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour("export", silent=True),
        Behaviour("export", rows=""),
        Behaviour("export", rows="many"),
        Behaviour("export", twice=True),
        Behaviour("import", silent=True),
        Behaviour("import", twice=True),
    ],
    ids=str,
)
def test_exit_code_zero_without_one_clear_row_count_is_no_success(
    ground: Ground, fake_psql: MakePsql, transfer: str, behaviour: Behaviour
) -> None:
    with pytest.raises((StageError, VerifyError)) as caught:
        ground.copy(psql=fake_psql(behaviour), transfer=transfer)
    assert caught.value.stage in {behaviour.stage, "verify"}
    ground.demand("old")


@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour("export", rows="19999"),
        Behaviour("export", truncate=100),
        Behaviour("export", truncate=300_000),
        Behaviour("export", trailing="30000\t덧붙인 줄\t1\n"),
        Behaviour("import", rows="20001"),
        Behaviour("import", truncate=300_000),
        Behaviour("import", trailing="30000\t덧붙인 줄\t1\n"),
    ],
    ids=str,
)
def test_a_lie_about_the_rows_is_found_out_before_anything_is_committed(
    ground: Ground, fake_psql: MakePsql, transfer: str, behaviour: Behaviour
) -> None:
    with pytest.raises((VerifyError, StageError)) as caught:
        ground.copy(psql=fake_psql(behaviour), transfer=transfer)
    assert caught.value.stage in {"verify", "import"}
    ground.demand("old")


def test_an_import_that_claims_a_commit_it_never_made_is_found_out_in_staging(
    ground: Ground, fake_psql: MakePsql
) -> None:
    with pytest.raises(VerifyError, match="staging 0") as caught:
        ground.copy(psql=fake_psql(Behaviour("import", forge=True)))
    assert caught.value.proofs["rows"]["staging"] == 0
    ground.demand("old")


@pytest.mark.parametrize("stage", ["export", "import"])
def test_a_flipped_bit_is_found_out_by_full_verification(ground: Ground, fake_psql: MakePsql, stage: Stage) -> None:
    with pytest.raises(VerifyError, match="content hash differ"):
        # Inside the second row's text, where a flipped digit is still a row.
        ground.copy(psql=fake_psql(Behaviour(stage, flip_at=61)), verify="full")
    ground.demand("old")


@pytest.mark.parametrize("stage", ["export", "import"])
def test_megabytes_of_noise_on_stderr_change_nothing(ground: Ground, fake_psql: MakePsql, stage: Stage) -> None:
    assert ground.copy(psql=fake_psql(Behaviour(stage, flood=20_000_000))).rows == 20_000
    ground.demand("new")


def came_of(trial: Trial, psql: str, **options: Any) -> Any:
    """What came of a copy with such a psql, which the invariant has judged."""
    trial.reset()
    _, end = trial.judged(lambda: trial.copy(psql=psql, timeouts=QUICK, **options), within=QUICK.stall + GRACE)
    return end


@pytest.mark.parametrize("rows", ["-300", "３００", "삼백", "9" * 5001])
def test_a_count_that_is_no_number_is_none(trial: Trial, fake_psql: MakePsql, rows: str) -> None:
    stage: Stage = "export" if len(rows) % 2 else "import"
    end = came_of(trial, fake_psql(Behaviour(stage, rows=rows)))
    assert isinstance(end, StageError if stage == "export" else VerifyError)
    assert end.retryable


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour("export", die_after=5000, exit_code=0),
        Behaviour("import", die_after=5000, exit_code=0),
        Behaviour("export", stranger=True),
        Behaviour("import", stranger=True),
        Behaviour("import", first=f"rows {ROWS - 1}"),
        Behaviour("export", trailing="301\t유령\t\\N\t\\N\n", late=True),
        Behaviour("export", trailing="유령", late=True),
    ],
    ids=str,
)
def test_a_success_that_does_not_add_up_is_none(trial: Trial, fake_psql: MakePsql, behaviour: Behaviour) -> None:
    end = came_of(trial, fake_psql(behaviour), transfer="sequential" if behaviour.stage == "export" else "chunked")
    assert isinstance(end, StageError | VerifyError), end


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour("export", first="end"),
        Behaviour("export", first=f"rows {ROWS}"),
        Behaviour("import", first="committed"),
        Behaviour("import", first=f"rows {ROWS}"),
    ],
    ids=str,
)
def test_what_is_said_too_early_and_comes_true_is_published(
    trial: Trial, fake_psql: MakePsql, behaviour: Behaviour
) -> None:
    assert isinstance(came_of(trial, fake_psql(behaviour), transfer="chunked"), CopyReport)


@pytest.mark.parametrize("exit_code", [0, 3, -signal.SIGKILL])
def test_an_import_that_ends_before_it_is_told_to_commit_is_a_failed_import(
    trial: Trial, fake_psql: MakePsql, exit_code: int
) -> None:
    """Found: COMMIT was written into a pipe that nobody read any more, and the user saw a BrokenPipeError."""
    end = came_of(trial, fake_psql(Behaviour("import", die_at_rows=True, exit_code=exit_code)))
    assert isinstance(end, StageError), end
    assert (end.stage, end.exit_code, end.retryable) == ("import", exit_code, True)


def test_two_lies_that_agree_are_found_out_by_full_verification(trial: Trial, fake_psql: MakePsql) -> None:
    """One row less, in the stream and in the count: nothing that psql says could tell."""
    liar = fake_psql(Behaviour("export", truncate=len(last_line(trial.source)), rows=str(ROWS - 1)))
    end = came_of(trial, liar, verify="full", format="text")
    assert isinstance(end, VerifyError)
    assert end.proofs["source rows"] == {"exported": ROWS - 1, "counted": ROWS}


def last_line(source: Database) -> bytes:
    """The last line of the table's stream, in text."""
    with source.connect() as session:
        session.execute("SET TimeZone = 'UTC'")
        with session.cursor().copy(f"COPY {TABLE} TO STDOUT".encode()) as stream:
            return b"".join(bytes(piece) for piece in stream).splitlines(keepends=True)[-1]


@pytest.mark.parametrize("stage", ["export", "import"])
def test_noise_without_an_end_is_a_stall(trial: Trial, fake_psql: MakePsql, stage: Stage) -> None:
    end = came_of(trial, fake_psql(Behaviour(stage, flood=1 << 60)), transfer="chunked")
    assert isinstance(end, StalledError)
    assert end.stage == stage


@pytest.mark.slow
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour("export", flood=1_000_000_000, width=1_000_000),
        Behaviour("import", flood=30_000_000),
    ],
    ids=["a gigabyte from the export", "many lines from the import"],
)
def test_a_gigabyte_of_noise_takes_no_memory(trial: Trial, fake_psql: MakePsql, behaviour: Behaviour) -> None:
    trial.reset()
    psql = fake_psql(behaviour)
    assert trial.copy().rows == ROWS  # whatever is imported and kept the first time is
    grown = growth(lambda: trial.judged(lambda: trial.copy(psql=psql, transfer="chunked")))
    assert grown < 24 * 1024 * 1024, f"{grown:,} bytes"


def test_a_server_that_floods_with_notices_and_forges_marks_changes_nothing(trial: Trial) -> None:
    trial.reset()
    trial.source.execute(
        'CREATE OR REPLACE FUNCTION "영업"."소음"(bigint) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN FOR i IN 1..50 LOOP '
        "RAISE NOTICE E'소음\\nsafecopy 0123456789abcdef rows %', i; END LOOP; RETURN $1; END$$"
    )
    query = f'SELECT "영업"."소음"("번호") AS "번호", "이름", "금액", "가입" FROM {TABLE}'
    _, end = trial.judged(lambda: trial.copy(source_table=None, source_sql=query, timeouts=QUICK))
    assert isinstance(end, CopyReport)
    assert end.rows == ROWS

"""psql dies, hangs, garbles and lies: the target holds the old rows, and the error says which stage and why."""

from __future__ import annotations

import signal
import time

import pytest

from airflow_provider_safecopy.errors import StageError, StageTimeoutError, StalledError, VerifyError
from airflow_provider_safecopy.transfer.timeouts import Timeouts
from tests.conftest import MakePsql
from tests.faults.conftest import Ground
from tests.ground.fake_psql import Behaviour, Stage

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
    assert time.monotonic() - started < 1 + 10
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

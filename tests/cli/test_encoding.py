"""Korean in and out, under any locale."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_safecopy.cli import encoding
from tests.cli.conftest import COMMAND, ROWS, Command, Ran

_CHARMAPS = Path("/usr/share/i18n/charmaps")
Bare = Callable[..., Ran]


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A directory with ko_KR.eucKR, made here; None where the system has not what it takes."""
    if shutil.which("localedef") is None or not list(_CHARMAPS.glob("EUC-KR*")):
        return None
    place = tmp_path_factory.mktemp("locale")
    subprocess.run(["localedef", "-i", "ko_KR", "-f", "EUC-KR", str(place / "ko_KR.eucKR")], check=True)
    return place


@pytest.fixture(scope="session")
def euc_kr(locales: Path | None) -> dict[str, str]:
    """What makes a process write EUC-KR: the locale, or where it cannot be made, Python's own switch."""
    if locales is None:
        return {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "euc_kr"}
    return {"LC_ALL": "ko_KR.eucKR", "LOCPATH": str(locales)}


@pytest.fixture
def typed_in_euc_kr(locales: Path | None) -> dict[str, str]:
    """What makes a process read EUC-KR too; no switch of Python's can do that."""
    if locales is None:
        pytest.skip("localedef or its sources are not installed")
    return {"LC_ALL": "ko_KR.eucKR", "LOCPATH": str(locales)}


@pytest.mark.parametrize(
    "raw, meant",
    [
        ("영업.고객".encode(), "영업.고객"),
        ("영업.고객".encode("euc_kr"), "영업.고객"),
        ("책".encode("euc_kr"), "책"),  # å in UTF-8
        ("å".encode(), "책"),  # the same bytes: there is no telling, and a Korean locale is Korean
        ("똠방각하 😀".encode(), "똠방각하 😀"),
        (b"plain", "plain"),
        ("漢字".encode(), "漢字"),
        (b"\xff\xfe", "\udcff\udcfe"),
    ],
)
def test_words_are_read_in_utf_8_or_in_euc_kr(raw: bytes, meant: str) -> None:
    assert encoding.decode(raw, "euc_kr") == meant


def test_every_syllable_is_read_from_either_encoding() -> None:
    for code in range(ord("가"), ord("힣") + 1):
        word = f"표_{chr(code)}"
        assert encoding.decode(word.encode(), "euc_kr") == word
        assert encoding.decode(word.encode("euc_kr"), "euc_kr") == word


def test_a_utf_8_locale_leaves_words_as_they_are() -> None:
    assert encoding.decode("고객".encode("euc_kr"), "utf-8") == "고객".encode("euc_kr").decode(
        "utf-8", "surrogateescape"
    )


def test_a_stream_of_euc_kr_escapes_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="euc-kr"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    encoding.settle_streams()
    sys.stdout.write("고객 똠 😀 — ₩\n")
    sys.stdout.flush()
    # Python's own codec would write 똠 as four signs of two bytes each.
    assert raw.getvalue() == "고객 ".encode("euc_kr") + rb"\ub620 \U0001f600 \u2014 \u20a9" + b"\n"


def test_closed_streams_are_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    encoding.settle_streams()
    sys.stdout.write("고객")
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "en_US.UTF-8", "no_SUCH.locale"])
def test_korean_is_written_in_utf_8_where_nothing_else_is_asked_for(bare: Bare, locale: str) -> None:
    ran = bare("copy", "--help", LC_ALL=locale)
    assert (ran.code, ran.err) == (0, "")
    assert "영업.고객" in ran.out


def test_in_euc_kr_it_is_written_in_euc_kr(bare: Bare, euc_kr: dict[str, str]) -> None:
    ran = bare("copy", "--help", **euc_kr)
    assert ran.code == 0
    assert "영업.고객" in ran.raw_out.decode("euc_kr")
    refused = bare(
        "copy",
        "--source-table",
        "표",
        "--target-table",
        "똠방각하 😀.x.y",
        **euc_kr | {"SAFECOPY_SOURCE": "host=a", "SAFECOPY_TARGET": "host=b"},
    )
    assert refused.code == 2
    said = refused.raw_err.decode("euc_kr")
    assert "\\ub620방각하 \\U0001f600" in said


def test_json_is_utf_8_even_there(bare: Bare, euc_kr: dict[str, str]) -> None:
    ran = bare("copy", "--json", "--format", "똠", "--target-table", "표", **euc_kr)
    assert ran.code == 2
    assert "똠" in ran.json["error"]["message"]
    assert "똠".encode() in ran.raw_out


@pytest.mark.slow
def test_a_copy_goes_through_whatever_encoding_its_words_are_typed_in(
    safecopy: Command, typed_in_euc_kr: dict[str, str]
) -> None:
    for typed in ("utf-8", "euc_kr"):
        words = [word.encode(typed) for word in safecopy.tables]
        ran = safecopy.run("copy", *words, "--owner", "책".encode("euc_kr"), **typed_in_euc_kr)
        assert ran.code == 0, ran.raw_err.decode("euc_kr")
        assert "분석.고객" in ran.raw_out.decode("euc_kr")
        assert f"publish done: 분석.고객 holds {ROWS} rows" in ran.raw_err.decode("euc_kr")
        assert safecopy.target.value("SELECT owner_key FROM safecopy.receipt ORDER BY id DESC LIMIT 1") == "책"


def test_an_environment_variable_is_read_as_a_word_is(safecopy: Command, typed_in_euc_kr: dict[str, str]) -> None:
    environment = {
        os.fsencode(name): value.encode() for name, value in {**safecopy.environment, **typed_in_euc_kr}.items()
    }
    environment[b"SAFECOPY_SOURCE"] = safecopy.source.conninfo.encode("euc_kr")  # the database's name is Korean
    done = subprocess.run([*COMMAND, "doctor"], env=environment, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert safecopy.source.name in done.stdout.decode("euc_kr")


def test_a_path_means_the_file_that_is_there(
    safecopy: Command, typed_in_euc_kr: dict[str, str], tmp_path: Path
) -> None:
    sql = '/* 고객 */ SELECT * FROM "영업"."고객"'.encode()
    for typed in ("utf-8", "euc_kr"):
        path = os.fsencode(tmp_path) + b"/" + "질의.sql".encode(typed)
        Path(os.fsdecode(path)).write_bytes(sql)
        ran = safecopy.run("plan", "--source-sql", b"@" + path, "--target-table", "분석.고객", **typed_in_euc_kr)
        assert ran.code == 0, ran.raw_err.decode("euc_kr")


@pytest.mark.parametrize("words", [(b"--where", b"\xff\xfe"), (b"--columns", b"\xb0\xed")])
def test_bytes_that_are_no_text_are_refused_by_the_name_of_their_option(bare: Bare, words: tuple[bytes, ...]) -> None:
    ran = bare("copy", "--target-table", "t", *words, "--json")
    assert ran.code == 2
    assert f"Invalid value for '{words[0].decode()}': the text is not valid UTF-8" in ran.json["error"]["message"]

"""The exam's own machinery, on a suite of two files: it loads, keeps, compares, and notices what it is there to notice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.report import CopyReport
from tests.exam import exam, report, suite
from tests.exam.load import Loaded, kept, load
from tests.exam.subject import Subject, families, one_of_each_shape, subjects
from tests.exam.suite import Package, Suite
from tests.exam.trial import SHAPES, Examiner, Trial
from tests.support.database import Database

FIRST = """
CREATE TABLE "고객" ("번호" int PRIMARY KEY, "이름" text);
COMMENT ON TABLE "고객" IS '사는 사람';
INSERT INTO "고객" SELECT g, '고객 ' || g FROM generate_series(1, 9) AS g;
CREATE TABLE "주문" ("고객" int REFERENCES "고객" CHECK ("고객" IS NULL));
CREATE VIEW "긴 이름" AS SELECT * FROM "고객" WHERE length("이름") > 3;
DROP TABLE IF EXISTS "고객" CASCADE;
CREATE TABLE "고객" (LIKE pg_catalog.pg_namespace);
SELECT an error;
"""
SECOND = """
CREATE TABLE "빈 표" (a int, b text);
CREATE TABLE "셋째 빈 표" (a int, b text);
CREATE TABLE "또 빈 표" (a int, b text);
CREATE TABLE "부모" (a int);
CREATE TABLE "자식" () INHERITS ("부모");
CREATE VIEW "못 읽음" AS SELECT a / 0 AS a FROM "빈 표";
CREATE TABLE "거르는 표" (a int);
INSERT INTO "거르는 표" VALUES (1), (2), (3);
CREATE FUNCTION "거른다"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER "거름" BEFORE INSERT ON "거르는 표" FOR EACH ROW EXECUTE FUNCTION "거른다"();
CREATE TABLE "바꾸는 표" (a int);
INSERT INTO "바꾸는 표" VALUES (1), (2), (3);
CREATE FUNCTION "바꾼다"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := NEW.a * 10; RETURN NEW; END $$;
CREATE TRIGGER "바꿈" BEFORE INSERT ON "바꾸는 표" FOR EACH ROW EXECUTE FUNCTION "바꾼다"();
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "zz_more.sql").write_text(SECOND)
    (tmp_path / "sql" / "test_setup.sql").write_text(FIRST)
    return tmp_path


@pytest.fixture
def loaded(source: Database, target: Database, directory: Path) -> Loaded:
    """Both ends hold the suite."""
    asked = Suite(directory, "ours")
    psql = source.server.installation.psql
    first, second = (load(asked, each.conninfo, psql, keep=True) for each in (source, target))
    target.execute(f"CREATE SCHEMA {SHAPES}")
    assert (first.files, first.errors) == (second.files, second.errors)
    return second


@pytest.fixture
def ask(source: Database, target: Database, loaded: Loaded) -> Iterator[Callable[[str], Trial]]:
    """Ask about the relation of a name, in the mode delete_insert."""
    with Examiner(source.conninfo, target.conninfo) as examiner:

        def ask(name: str) -> Trial:
            (trial,) = examiner.ask(_named(target, name), ("delete_insert",))
            return trial

        yield ask


def _named(target: Database, name: str) -> Subject:
    (found,) = (each for each in subjects(target.conninfo) if str(each).endswith(name))
    return found


def test_a_suite_is_loaded_with_what_it_drops(target: Database, loaded: Loaded) -> None:
    assert (loaded.files, loaded.errors) == (2, 1)
    assert [str(each) for each in subjects(target.conninfo)] == [
        *("kept_1.고객", "kept_1.긴 이름"),
        *(
            "public.거르는 표",
            "public.고객",
            "public.또 빈 표",
            "public.못 읽음",
            "public.바꾸는 표",
            "public.부모",
            "public.빈 표",
        ),
        *("public.셋째 빈 표", "public.자식", "public.주문"),
    ]
    assert target.rows('SELECT * FROM "빈 표" ORDER BY a') == [(n, f"v{n}") for n in range(1, 6)]
    assert target.value('SELECT count(*) FROM kept_1."고객"') == 9


def test_one_of_each_shape_is_asked_about_and_families_stay_together(target: Database, loaded: Loaded) -> None:
    found = subjects(target.conninfo)
    chosen = one_of_each_shape(found)
    left = {each.name for each in found} - {each.name for each in chosen}
    assert left == {"또 빈 표", "셋째 빈 표", "못 읽음", "바꾸는 표"}
    grouped = [{each.name for each in family} for family in families(target.conninfo, found)]
    assert {"고객", "긴 이름", "주문"} in grouped
    assert {"부모", "자식"} in grouped
    assert sum(map(len, grouped)) == len(found)


@pytest.mark.slow
def test_what_comes_of_a_copy_is_told(ask: Callable[[str], Trial], target: Database) -> None:
    copied = [ask(name) for name in ("kept_1.고객", "긴 이름", "public.주문", "public.빈 표")]
    assert [(trial.outcome, trial.findings) for trial in copied] == [("copied", ())] * 4
    assert copied[0].moved
    assert (ask("public.부모").outcome, ask("public.부모").code) == ("refused", "inheritance")
    assert ask("public.못 읽음").outcome == "unreadable"
    assert ask("public.거르는 표").outcome == "not borne"
    # What was not copied is as it was: two rows of the three would be left had the exam not put it back.
    assert target.value('SELECT count(*) FROM ONLY "부모"') == 5
    assert target.value('SELECT count(*) FROM "거르는 표"') == 3
    assert ask("public.바꾸는 표").outcome == "altered"
    told = report.printed(copied, ["delete_insert"])
    assert told.splitlines()[1].split()[:3] == ["delete_insert", "4", "4"]
    assert told.splitlines()[-1] == "0 findings."
    assert json.dumps(report.as_json(copied))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        ('DELETE FROM kept_1."고객" WHERE "번호" = 5', "content: 8 rows where 9 were due"),
        ('COMMENT ON TABLE kept_1."고객" IS NULL', "comment"),
        ('INSERT INTO public."주문" VALUES (NULL)', "rows of public.주문 changed"),
    ],
)
def test_a_copy_that_does_damage_is_noticed(
    ask: Callable[[str], Trial], target: Database, mocker: MockerFixture, damage: str, noticed: str
) -> None:
    real = pipeline.copy

    def copy(*asked: object) -> CopyReport:
        done: CopyReport = real(*asked)  # type: ignore[arg-type]  # as it was asked
        target.execute(damage)
        return done

    mocker.patch.object(pipeline, "copy", copy)
    trial = ask("kept_1.고객")
    assert trial.outcome == "differing"
    assert any(noticed in each for each in trial.findings), trial.findings
    assert "1 findings." in report.printed([trial], ["delete_insert"])


def test_a_copy_that_fails_without_need_is_noticed(ask: Callable[[str], Trial], mocker: MockerFixture) -> None:
    mocker.patch.object(pipeline, "copy", side_effect=StageError("broken", stage="publish"))
    trial = ask("kept_1.고객")
    assert (trial.outcome, trial.findings) == ("failed", ("StageError: broken",))


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ('drop table a, "b, c" cascade;', "SELECT exam.keep(ARRAY['a', '\"b, c\"'], true);"),
        ("  DROP VIEW IF EXISTS s.v RESTRICT;", "SELECT exam.keep(ARRAY['s.v'], false);"),
        ("DROP SCHEMA s CASCADE;", "SELECT exam.keep_schemas(ARRAY['s']);"),
        ("DROP SCHEMA s;", "DROP SCHEMA s;"),
        ("DROP INDEX i;", "DROP INDEX i;"),
        ("EXECUTE 'DROP TABLE t';", "EXECUTE 'DROP TABLE t';"),
    ],
)
def test_what_is_dropped_is_kept_instead(text: str, instead: str) -> None:
    assert kept(text) == instead


def test_the_suite_is_what_is_named_in_its_own_order(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAM_SQL", str(directory))
    assert [path.stem for path in Suite.of(18).files()] == ["test_setup", "zz_more"]
    monkeypatch.setenv("EXAM_SQL", str(directory / "nowhere"))
    with pytest.raises(SystemExit, match="holds no SQL"):
        Suite.of(18).files()


def test_a_package_that_was_tampered_with_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXAM_SQL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(suite.PACKAGES, 18, Package("pglast", "8.4", "0" * 64, "18.4"))
    (suite.cache() / "pglast-8.4.tar.gz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="SHA-256"):
        Suite.of(18)


@pytest.mark.slow
def test_the_exam_is_held(directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXAM_SQL", str(directory))
    told: list[str] = []
    options = ["--mode", "delete_insert", "--only", "고객$", "--json", str(tmp_path / "told.json")]
    assert exam.main([*options, "--processes", "1"], told.append) == 0
    assert told[3] == "2 relations, of 2 shapes; 2 are asked about"
    assert len(json.loads((tmp_path / "told.json").read_text())) == 2

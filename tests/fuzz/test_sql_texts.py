r"""SQL of a user is what the server reads in it, and nothing of it is psql's: whatever strings, comments and commands it holds.

The kind: a text that two programs lex. psql reads line by line, and by its own idea of where a string ends; whatever it
takes to be outside of one may be a command (`\!`, `\o |`, backticks) or a variable. Each text here has a planted command
whose file is watched, and the rows that are copied are those that the server finds when it is asked alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import Installation, installations
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.pipeline.outcome import Failure
from airflow_provider_safecopy.spec import CopySpec
from tests.faults.canary import examples
from tests.support.database import PRESENT, Database, Servers

ROWS = 9
TABLES = 5
_SHAPE = """
CREATE SCHEMA 글; CREATE TABLE 글.글 (번호 int PRIMARY KEY, 글 text);
CREATE FUNCTION 글.정하다(설정 text, 값 text) RETURNS bool LANGUAGE plpgsql AS
'BEGIN PERFORM pg_catalog.set_config(설정, 값, false); RETURN true; END';
"""
_FILLED = f"INSERT INTO 글.글 SELECT g, 'a' || g FROM generate_series(1, {ROWS}) g"


@dataclass(frozen=True)
class Ends:
    """A source of one major, and a target with an empty table for each text of a batch."""

    source: Database
    target: Database

    @classmethod
    def made(cls, servers: Servers, major: int) -> Ends:
        ends = cls(servers.create(major, "UTF8", None), servers.create(18, "UTF8", None))
        ends.source.execute(_SHAPE)
        ends.source.execute(_FILLED)
        ends.target.execute(_SHAPE + "".join(f"CREATE TABLE 글.글_{n} (번호 int, 글 text);" for n in range(TABLES)))
        # As an old application has it. A session of ours never follows that.
        ends.source.execute(f'ALTER DATABASE "{ends.source.name}" SET standard_conforming_strings = off')
        return ends

    def alone(self, query: str) -> list[int] | None:
        """What the server finds by itself: the numbers of the rows, None where it makes no sense of the text."""
        with psycopg.connect(self.source.conninfo, autocommit=True, client_encoding="UTF8") as session:
            session.execute("SET standard_conforming_strings = on; SET search_path = pg_catalog; BEGIN READ ONLY")
            try:
                # In binary: by the protocol's way for one statement.
                with session.cursor(binary=True) as cursor:
                    return sorted(row[0] for row in cursor.execute(query.encode()).fetchall())
            except psycopg.Error:
                return None

    def held(self, number: int) -> list[int]:
        """The rows of a target table, which is emptied."""
        query = f"WITH gone AS (DELETE FROM 글.글_{number} RETURNING 번호) SELECT 번호 FROM gone ORDER BY 1"
        return [row for (row,) in self.target.rows(query)]


@pytest.fixture(scope="module")
def ends(servers: Servers) -> Iterator[dict[int, Ends]]:
    made = {major: Ends.made(servers, major) for major in PRESENT}
    yield made
    for each in made.values():
        for database in (each.source, each.target):
            servers.drop(database)


# Texts

_PLANTED = [
    "\\! touch FILE",
    "\\! touch FILE #",
    "\\o |touch FILE",
    "\\w |touch FILE",
    "\\g |touch FILE",
    "\\set x `touch FILE`",
    "\\echo `touch FILE`",
    "\\copy 글.글 to program 'touch FILE'",
    "\n\\! touch FILE\n",
    "\r\\! touch FILE\r",
]
_PIECES = st.sampled_from(
    [
        *("'", "''", '"', "\\", "\\\\", "\\'", "$$", "$x$", ";", "\\;", "--", "/*", "*/", "(", ")", "`", "#"),
        *("\n", "\r", "\f", "\v", "\t", " ", "가", "a1", "E'", "U&'", "UESCAPE '!'", "%", "{}"),
        *(
            ":USER",
            ":'USER'",
            ':"USER"',
            ":{?USER}",
            "::text",
            ":",
            "\\q",
            "\\.",
            "\\restrict x",
            "\\unset ON_ERROR_STOP",
        ),
        *_PLANTED,
    ]
)
_CONTENT = st.lists(_PIECES, max_size=4).map("".join)
_SPACE = st.sampled_from(
    [" ", "\n", "\r", "\f", "\t", " \n ", "/* x */", "/* '/*\"*/ */", "-- '\n", "-- \\\r", " -- $$ E'\n"]
)


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A string constant, in any of the server's spellings. What it holds is anything."""
    inside = draw(_CONTENT)
    kind = draw(
        st.sampled_from(["plain", "escapes", "dollars", "tagged", "unicode", "more lines", "escapes, more lines"])
    )
    doubled, escaped = inside.replace("'", "''"), inside.replace("\\", "\\\\").replace("'", "\\'")
    newline = draw(st.sampled_from(["\n", " \r ", "\f\n", " -- 'x\n"]))
    return {
        "plain": f"'{doubled}'",
        "escapes": f"E'{escaped}'",
        "dollars": f"$${inside.replace('$', '')}$$",
        "tagged": f"$가${inside}$가$",
        "unicode": f"U&'{doubled.replace(chr(92), chr(92) * 2)}'",
        "more lines": f"'a'{newline}'{doubled}'",
        "escapes, more lines": f"E'a'{newline}'{escaped}'",
    }[kind]


@st.composite
def conditions(draw: st.DrawFn) -> str:
    """What looks like a condition, and mostly is one."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        before, after = draw(_SPACE), draw(_SPACE)
        said = draw(
            st.sampled_from(
                [
                    "{}{} IS NOT NULL",
                    "글{}<>{}",
                    "length({}{}) > 번호",
                    "(array[true,false])[1:번호] IS NOT NULL AND{}{} > ''",
                ]
            )
        )
        parts.append(said.replace("{}", before, 1).replace("{}", draw(strings()), 1) + after)
    return draw(st.sampled_from([" AND ", " OR ", "\nOR\n"])).join(parts)


_TEXTS = conditions() | st.builds(lambda whole, more: whole + more, conditions(), _CONTENT) | _CONTENT
_LEAKS = st.sampled_from(["true", "current_query() LIKE 'COPY%'", "current_query() NOT LIKE 'COPY%'", "false"])
_SPLIT = "E'a'\n'b\\' \\! touch FILE #' IS NOT NULL\n-- ' IS NOT NULL"
_BY_SETTING = "'\\' = '\\! touch FILE #' OR true"


@pytest.mark.parametrize("installation", installations(), ids=lambda each: f"psql {each.major}")
def test_the_rows_that_are_copied_are_those_the_server_finds(
    ends: dict[int, Ends], installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One text at a time: as `where`, and as `source_sql`."""
    place = tmp_path_factory.mktemp("psql")

    @examples(20)
    @given(st.sampled_from(PRESENT), st.booleans(), _TEXTS)
    @example(PRESENT[0], False, _SPLIT)
    @example(PRESENT[-1], True, _SPLIT)
    @example(PRESENT[-1], False, "a' = 'b")
    @example(PRESENT[-1], False, "true) OR (true")
    def single(major: int, is_query: bool, text: str) -> None:
        end = ends[major]
        text = text.replace("FILE", str(place / "심은_파일"))
        query = f"SELECT 번호, 글 FROM 글.글 WHERE\n{text}\n"
        asked = {"source_sql": query} if is_query else {"source_table": "글.글", "where": text}
        given = CopySpec.of(target_table="글.글_0", min_rows=0, psql=str(installation.psql), **asked)
        wanted = end.alone(query)
        try:
            pipeline.copy(given, end.source.endpoint, end.target.endpoint)
        except SafeCopyError as error:
            _demand_senseless(wanted, text, error)
        else:
            assert end.held(0) == wanted
        event("read by the server" if wanted is not None else "no SQL")
        assert list(place.iterdir()) == []

    single()


@pytest.mark.parametrize("installation", installations(), ids=lambda each: f"psql {each.major}")
def test_so_they_are_in_a_batch_whatever_the_first_table_sets(
    ends: dict[int, Ends], installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Many texts one after the other in two sessions, the first with a function that changes how strings are read."""
    place = tmp_path_factory.mktemp("psql")

    @examples(8)
    @given(st.sampled_from(PRESENT), _LEAKS, st.lists(conditions(), min_size=TABLES - 1, max_size=TABLES - 1))
    @example(PRESENT[-1], "true", [_SPLIT, _BY_SETTING, "true", "false"])
    @example(PRESENT[0], "current_query() LIKE 'COPY%'", [_BY_SETTING, _SPLIT, "글 = E'\\\\'", "글 <> '\\'"])
    @example(PRESENT[0], "current_query() NOT LIKE 'COPY%'", [_BY_SETTING, "글 <> '\\'", "글 <> ':USER'", "글[1:1]"])
    def many(major: int, leak: str, texts: list[str]) -> None:
        end = ends[major]
        found = [text.replace("FILE", str(place / "심은_파일")) for text in texts]
        first = f"CASE WHEN {leak} THEN 글.정하다('standard_conforming_strings', 'off') ELSE true END"
        shared = {"source_table": "글.글", "psql": str(installation.psql)}
        specs = [
            # Of the first it is asked whether it has rows, so that the control session runs its function as well.
            CopySpec.of(target_table=f"글.글_{n}", where=text, min_rows=int(n == 0), **shared)
            for n, text in enumerate([first, *found])
        ]
        report = pipeline.copy_tables(specs, end.source.endpoint, end.target.endpoint, keep_going=True)
        assert isinstance(report.outcomes[0], Failure) == (leak != "false")
        for n, (text, outcome) in enumerate(zip(found, report.outcomes[1:], strict=True), 1):
            wanted = end.alone(f"SELECT 번호, 글 FROM 글.글 WHERE\n{text}\n")
            if isinstance(outcome, Failure):
                _demand_senseless(wanted, text, outcome.error)
            else:
                assert end.held(n) == wanted
        end.held(0)
        assert list(place.iterdir()) == []

    many()


def _demand_senseless(wanted: list[int] | None, text: str, error: SafeCopyError) -> None:
    """Only what the server makes no sense of fails; or what is more than a condition, after a semicolon."""
    if wanted is not None and ";" not in text:
        raise error
    assert not error.retryable, text

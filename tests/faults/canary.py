"""A canary beside what is copied, and texts that would make it sing if they became more than texts.

It is a table that must stay, and a channel that must stay silent, on which a second statement would sing; and a directory
in which a command of psql's would leave a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.report import CopyReport
from tests.faults.invariant import Invariant
from tests.support.customers import spec
from tests.support.database import Database
from tests.support.selection import number_of_examples

FILE = "새어나온_파일"
NEST = "CREATE SCHEMA 카나리아; CREATE TABLE 카나리아.새 (번호 int); INSERT INTO 카나리아.새 VALUES (1), (2), (4)"

# What ends, opens or escapes something, for the server, for psql, for psycopg or for Python.
SIGNS = [
    *("'", '"', "''", '""', "\\", "\\'", "$$", "$x$", ";", ")", "(", "--", "/*", "*/", "`", "E'", 'U&"', "::", ":"),
    *(
        "\n",
        "\r",
        "\t",
        " ",
        "%",
        "%%",
        "%s",
        "%(name)s",
        "{}",
        "{0}",
        "\x1b[2J",
        "\u2028",
        "\u202e",
        "똠",
        "\u1112\u1161",
    ),
    *(
        ":USER",
        ":'HOST'",
        ':"DBNAME"',
        ":{?USER}",
        ":safecopy_backend",
        "\\.",
        "\\;",
        "\\g\n",
        "\\q\n",
        "\\unset ON_ERROR_STOP\n",
    ),
]
STATEMENTS = [
    "; NOTIFY 카나리아; ",
    "; COMMIT; NOTIFY 카나리아; ",
    "'; NOTIFY 카나리아; --",
    '"; NOTIFY 카나리아; --',
    "); NOTIFY 카나리아; --",
    "\\'; NOTIFY 카나리아; --",
    "$$; NOTIFY 카나리아; $$",
    '"; DROP TABLE 카나리아.새; --',
    "'; DROP TABLE 카나리아.새; --",
    "\n; DELETE FROM 카나리아.새;\n",
    "') RETURNING 1), x AS (DELETE FROM 카나리아.새 RETURNING 1) SELECT ('",
]
NO_TEXT = ["\0", "\ud800", "\udcff"]


def hostile(*, also: list[str] | None = None, most: int = 4) -> st.SearchStrategy[str]:
    """Pieces that mean something to somebody, beside letters that mean nothing."""
    pieces = st.sampled_from([*SIGNS, *STATEMENTS, *(also or [])]) | st.text("가나Ab_1", min_size=1, max_size=3)
    return st.lists(pieces, min_size=1, max_size=most).map("".join)


HUNT = int(os.environ.get("INJECTION_HUNT", "0"))
"""How many times as many examples, other ones each time; 0 for the same few."""


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many, the same ones each time; what a test asked for lives as long as all of them."""
    unharmed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=number_of_examples(number) * (HUNT or 1),
        derandomize=not HUNT,
        database=None,
        deadline=None,
        suppress_health_check=unharmed,
    )


@dataclass(frozen=True)
class Nest:
    """Both databases with customers, and what must not change in them."""

    source: Database
    target: Database
    spool: Path
    watch: tuple[psycopg.Connection[Any], ...]
    commands: Path
    """Where a command of psql's would leave its file."""
    sung: list[str] = field(default_factory=list)

    def demand_silence(self) -> None:
        """Nothing has sung, nothing is missing, no file is there."""
        for session in self.watch:
            found = session.execute("SELECT count(*), sum(번호) FROM 카나리아.새").fetchone()
            assert found == (3, 7)
        assert self.sung == []
        assert list(self.commands.iterdir()) == []

    def escapes(self) -> list[str]:
        """Commands of psql's that would leave a file."""
        path = self.commands / FILE
        return [f"\\! touch {path}\n", f"\n\\! touch {path}\n", f"\\g {path}\n", f"\\o {path}\n", f"`touch {path}`"]

    def invariant(self) -> Invariant:
        return Invariant.before(self.source, self.target, ("영업", "고객"), self.spool)

    def copy(self, **options: Any) -> CopyReport:
        return pipeline.copy(spec(spool_dir=str(self.spool), **options), self.source.endpoint, self.target.endpoint)

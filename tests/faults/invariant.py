"""The one invariant, the same for every fault.

The target is exactly old or exactly new, rows and catalog; what was said of it is true; nothing outside it has changed;
and after the next run, which succeeds, nothing is left: no child, session, staging table, spool file or held lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.errors import PublishUnknownError, SafeCopyError
from airflow_provider_safecopy.report import CopyReport
from tests.support.content import rows_of
from tests.support.database import Database
from tests.support.fingerprint import Fingerprint, differences, fingerprint, present
from tests.support.remains import Remains

Held = Literal["old", "new"]
Said = Literal["published", "unchanged", "unknown", "nothing"]
"""What a run said of the target: that it is new, that it is old, that it does not know; or it died without a word."""

_NEIGHBOURS = r"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'safecopy')
"""
_SETTINGS = "SELECT s.setdatabase::text, unnest(s.setconfig) FROM pg_db_role_setting s ORDER BY 1, 2"


def said(by: CopyReport | BaseException | int) -> Said:
    """What a report, an error or an exit code says. A signal (a negative code) says nothing."""
    if isinstance(by, CopyReport):
        return "published" if by.status == "published" else "unchanged"
    if isinstance(by, PublishUnknownError):
        return "unknown"
    if isinstance(by, SafeCopyError):
        return "unchanged"
    if isinstance(by, BaseException):
        pytest.fail(f"a run ended with what is no error of ours: {by!r}")
    if by < 0:
        return "nothing"
    assert by != exitcode.INTERNAL, "a run ended with a mistake of ours: exit code 1"
    if by == exitcode.ERROR_CODES[PublishUnknownError]:
        return "unknown"
    return "published" if by == exitcode.DONE else "unchanged"


@dataclass(frozen=True)
class Picture:
    """A database as it is: the table's rows and catalog, and all the rest of it."""

    rows: tuple[str, ...]
    table: Fingerprint
    objects: Fingerprint
    neighbours: Mapping[str, str]
    """The content hash of every other table, ours left out."""
    settings: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Invariant:
    """Made before the fault (`before`); asked right after it (`hold`), and after the next run (`recovered`).

    `table` is schema and name. The source must not change during all of it, unless a test makes a new invariant.
    """

    source: Database
    target: Database
    table: tuple[str, str]
    spool: Path | None
    new: tuple[str, ...]
    was: Picture
    source_was: Picture
    remains: Remains = field(repr=False)

    @classmethod
    def before(cls, source: Database, target: Database, table: tuple[str, str], spool: Path | None = None) -> Invariant:
        """Look at both databases. What the source holds now is what `new` is."""
        there = picture(source, table)
        return cls(source, target, table, spool, there.rows, picture(target, table), there, Remains())

    def hold(self, word: Said) -> Held:
        """What the target holds; fails unless it is exactly old or exactly new, as was said, and all else is as it was."""
        now = picture(self.target, self.table)
        held = self._held(now)
        expected: dict[Said, tuple[Held, ...]] = {"published": ("new",), "unchanged": ("old",)}
        assert held in expected.get(word, ("old", "new")) or self.was.rows == self.new, f"said {word}, and holds {held}"
        self._demand_the_rest(now)
        return held

    def recovered(self, run: Callable[[], CopyReport | int]) -> None:
        """Run once more: it must succeed, publish the source's rows, and leave nothing."""
        word = said(run())
        assert word == "published", f"the next run said {word}"
        now = picture(self.target, self.table)
        assert self._held(now) == "new" or self.was.rows == self.new
        self._demand_the_rest(now, staging=False)
        self.remains.check(self.source, self.target, spool=self.spool)

    def _held(self, now: Picture) -> Held:
        if now.rows == self.was.rows:
            return "old"
        assert now.rows == self.new, f"neither old nor new: {len(now.rows):,} rows of {len(self.new):,}"
        return "new"

    def _demand_the_rest(self, now: Picture, *, staging: bool = True) -> None:
        assert not (lost := differences(self.was.table, now.table)), f"the target's catalog: {lost}"
        outside = [each for each in differences(self.was.objects, now.objects) if not staging or not _is_staging(each)]
        assert not outside, f"outside the target: {outside}"
        assert now.neighbours == self.was.neighbours, "the rows of another table"
        assert now.settings == self.was.settings, "settings of a role or database"
        there = picture(self.source, self.table)
        assert (there.rows, there.neighbours) == (self.source_was.rows, self.source_was.neighbours), (
            "rows of the source"
        )
        assert not (lost := differences(self.source_was.objects, there.objects)), f"the source's catalog: {lost}"


def picture(database: Database, table: tuple[str, str]) -> Picture:
    """Look at all of it, by the tests' own means, as the superuser who made it."""
    name = ".".join('"' + word.replace('"', '""') + '"' for word in table)
    with database.connect() as session:
        objects = present(session)
        others = [found for (found,) in session.execute(_NEIGHBOURS.encode()).fetchall()]
        own = session.execute("SELECT %s::regclass::oid", [name]).fetchone()
        neighbours = [each for each in others if session.execute("SELECT %s::regclass::oid", [each]).fetchone() != own]
        settings = tuple(session.execute(_SETTINGS.encode()).fetchall())
    rows = tuple(rows_of(database, f"SELECT * FROM {name}"))
    return Picture(rows, _bare(fingerprint(database, *table)), objects, _hashes(database, neighbours), settings)


def _hashes(database: Database, tables: list[str]) -> dict[str, str]:
    found = {name: "\n".join(rows_of(database, f"SELECT * FROM {name}")) for name in tables}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in found.items()}


def _bare(of: Fingerprint) -> Fingerprint:
    """Without what is of the whole database: that is compared by itself."""
    return Fingerprint(
        {name: facts for name, facts in of.objects.items() if not name.startswith("present: ")}, of.analyzed
    )


def _is_staging(difference: str) -> bool:
    return "__safecopy_" in difference

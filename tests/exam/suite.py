"""The suite's SQL: PostgreSQL's own regression tests, from a source tree or from a package that carries them.

No package carries the suite for its own sake. The one used is the source distribution of `pglast`, which brings
PostgreSQL's `src/test/regress/sql` for its parser's tests, of the release it is made of. What it does not bring:
`data/*.data` (what COPY loads into some twenty tables), the C functions of `regress.so`, `parallel_schedule`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile, TemporaryDirectory

_WHERE_IN_THE_PACKAGE = ("libpg_query", "test", "sql", "postgres_regress")
# What others build upon, in the suite's own order. The rest may come in any.
_FIRST = (
    *("test_setup", "copy", "copyselect", "copydml", "create_function_c", "create_misc", "create_operator"),
    *("create_procedure", "create_table", "create_type", "create_schema", "create_index", "create_index_spgist"),
    *("create_view", "index_including", "index_including_gist", "create_aggregate", "create_function_sql"),
    *("create_cast", "constraints", "triggers", "select", "inherit", "typed_table"),
)
_LAST = ("tablespace",)


@dataclass(frozen=True)
class Package:
    """A pinned package that carries the suite, and the release of PostgreSQL the suite is of."""

    name: str
    version: str
    sha256: str
    postgres: str

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.tar.gz"


PACKAGES = {
    18: Package("pglast", "8.4", "ebc804351aab9c1bac395611758883cd17d4198f4704224bb6f9f1dd1f3c513d", "18.4"),
    16: Package("pglast", "6.17", "37d2fa080f22a73fb575c2655b6e28f1e3a084cf0466f96b15d227b4cfffc45e", "16.1"),
}


@dataclass(frozen=True)
class Suite:
    """Where the suite's SQL lies. `told` says where it came from."""

    directory: Path
    told: str

    @classmethod
    def of(cls, major: int) -> Suite:
        """What the variable EXAM_SQL names (a source tree's `src/test/regress`, or any directory of SQL files), else
        the package, downloaded once.
        """
        if given := os.environ.get("EXAM_SQL"):
            return cls(Path(given).resolve(), f"the suite in {given}")
        if major not in PACKAGES:
            raise SystemExit(f"no package is known for PostgreSQL {major}: name a source tree with EXAM_SQL")
        package = PACKAGES[major]
        told = f"the suite of PostgreSQL {package.postgres}, from {package.name} {package.version}"
        return cls(_unpacked(package, cache()), told)

    def files(self) -> list[Path]:
        """The suite's files in the order of loading."""
        place = self.directory / "sql"
        found = {path.stem: path for path in (place if place.is_dir() else self.directory).glob("*.sql")}
        if not found:
            raise SystemExit(f"{self.directory} holds no SQL: EXAM_SQL is to name PostgreSQL's src/test/regress")
        middle = sorted(found.keys() - {*_FIRST, *_LAST})
        return [found[name] for name in (*_FIRST, *middle, *_LAST) if name in found]


def cache() -> Path:
    """Where downloads are kept, outside the repository."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safecopy-exam"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _unpacked(package: Package, place: Path) -> Path:
    directory = place / f"{package.name}-{package.version}-{package.sha256[:12]}"
    if not directory.is_dir():
        archive = place / package.file
        if not archive.is_file():
            _download(package, place)
        _demand_digest(archive, package)
        with TemporaryDirectory(dir=place) as aside:
            _extract(archive, Path(aside) / "suite")
            (Path(aside) / "suite").rename(directory)
    return directory


def _download(package: Package, place: Path) -> None:
    """By pip, from wherever this machine's pip gets its packages."""
    with NamedTemporaryFile("w", suffix=".txt") as wanted, TemporaryDirectory(dir=place) as aside:
        wanted.write(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        wanted.flush()
        asked = ["--no-deps", "--no-binary", package.name, "--require-hashes", "--requirement", wanted.name]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", *asked, "--dest", aside]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"{package.file} cannot be had by pip: {done.stderr.strip()}\nName a source tree: EXAM_SQL"
            )
        (Path(aside) / package.file).rename(place / package.file)


def _demand_digest(archive: Path, package: Package) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{archive} is not {package.file}: its SHA-256 is {found}; remove it")


def _extract(archive: Path, directory: Path) -> None:
    directory.mkdir()
    with tarfile.open(archive) as held:
        for member in held:
            path = PurePosixPath(member.name)
            content = held.extractfile(member) if member.isfile() else None
            if content is not None and path.parts[1:-1] == _WHERE_IN_THE_PACKAGE and path.suffix == ".sql":
                (directory / path.name).write_bytes(content.read())

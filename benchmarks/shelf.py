"""Other tools, installed where nothing else is: Python packages in an environment each, Debian's packages unpacked.

Nothing of the system is changed. What was installed once stays until `make clean`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PLACE = re.compile(r"\w+://\S+|(/[\w.+-]+){2,}/?|password=\S+")
_SECONDS = 600


class MissingError(Exception):
    """A tool is not to be had here; the message says why, in a line."""


@dataclass(frozen=True)
class Shelf:
    """The directory the tools are kept in."""

    directory: Path

    @property
    def home(self) -> Path:
        """A home for what tools keep for themselves."""
        home = self.directory / "home"
        home.mkdir(parents=True, exist_ok=True)
        return home

    def python(self, name: str, *requirements: str) -> Path:
        """An environment with these packages. Raises `MissingError`."""
        place = self.directory.absolute() / name
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            said(sys.executable, "-m", "venv", str(place))
            said(str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements)
            (place / "done").touch()
        return place

    def debian(self, name: str, *packages: str) -> Path:
        """These packages of the distribution, unpacked. Raises `MissingError`."""
        place = self.directory.absolute() / name
        if not (place / "done").exists():
            if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
                raise MissingError("no Debian")
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            said("apt-get", "download", *packages, inside=place)
            for package in place.glob("*.deb"):
                said("dpkg", "-x", str(package), str(place))
            (place / "done").touch()
        return place


def libraries(place: Path) -> dict[str, str]:
    """What a program unpacked here needs in its environment to find its libraries."""
    return {"LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in sorted(place.glob("usr/lib/*-linux-gnu")))}


def version(pattern: str, *command: str, env: dict[str, str] | None = None) -> str:
    """What a program says its version is, found by a pattern with one group. Raises `MissingError` when it does not run."""
    words = said(*command, env=env)
    if not (match := re.search(pattern, words)):
        raise MissingError(f"says no version: {brief(words)}")
    return match[1]


def package_version(place: Path, package: str) -> str:
    """That of a package in an environment. Raises `MissingError`."""
    program = "import sys, importlib.metadata; print(importlib.metadata.version(sys.argv[1]))"
    return said(str(place / "bin" / "python"), "-c", program, package).strip()


def said(*command: str, inside: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command prints. Raises `MissingError` when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=inside,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(brief(str(error))) from error
    if done.returncode:
        raise MissingError(brief(done.stderr or done.stdout))
    return done.stdout + done.stderr


def brief(words: str) -> str:
    """The line that tells most, without places and paths: it is kept with the results."""
    lines = [line.strip() for line in words.splitlines() if line.strip() and line[0] != "{"] or ["no reason was given"]
    errors = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    return _PLACE.sub("…", (errors or lines[-1:])[0])[:200]

"""What the results were measured on: no names of hosts, no paths, nothing of the network."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.pair import SETTINGS, Pair

_ROOT = Path(__file__).parents[1]


def about(pair: Pair) -> dict[str, Any]:
    """Machine, versions, commit, settings."""
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "kernel": platform.release().partition("-")[0],
            "disk": _disk(pair.source.socket_directory),
        },
        "versions": {
            "safecopy": version("airflow-provider-safecopy"),
            "python": platform.python_version(),
            "postgresql": str(pair.source.execute("postgres", "SHOW server_version")[0][0]),
            "psql": _said(pair.psql, "--version").removeprefix("psql (PostgreSQL) "),
        },
        "settings": dict(SETTINGS),
        "idle_interpreter_rss": idle_interpreter(),
    }


def commit() -> str:
    """The checkout's, with a plus sign when files of it were changed since."""
    found = _said("git", "-C", str(_ROOT), "rev-parse", "--short=10", "HEAD")
    if not found:
        return "unknown"
    changed = _said(
        "git", "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
    )
    return found + ("+" if changed else "")


def idle_interpreter() -> int:
    """Bytes of memory a Python takes that does nothing."""
    program = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    return int(_said(sys.executable, "-c", program)) * 1024


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _disk(directory: Path) -> str:
    """File system and kind of disk under a directory, as far as the kernel tells."""
    found = _said("findmnt", "--noheadings", "--output", "FSTYPE,SOURCE", "--target", str(directory)).split()
    if len(found) != 2:
        return "unknown"
    kind, device = found
    rotates = Path("/sys/class/block") / Path(device).name / "queue" / "rotational"
    if not rotates.exists():
        return kind
    virtual = " virtual" if Path(device).name.startswith(("vd", "xvd")) else ""
    return f"{kind} on a{virtual} disk{', rotating' * (not virtual and rotates.read_text().strip() == '1')}"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

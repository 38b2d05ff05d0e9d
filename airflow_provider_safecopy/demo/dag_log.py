"""The log of ``airflow dags test``, line by line: which lines tell something of the copies."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_TASK = re.compile(r"\[DAG TEST\] starting task_id=(\S+)")
_OUR_LOGGERS = re.compile(r"airflow_provider_safecopy\.(pipeline|transfer|lock)\b")


@dataclass(frozen=True)
class LogLine:
    """One line. `telling` ones are shown as they come; of the others, the last when something failed."""

    text: str
    telling: bool = False


class DagLog:
    """Reads lines, and remembers which task they are of: `dags test` runs one after the other."""

    def __init__(self) -> None:
        self._task = ""

    def read(self, line: str) -> LogLine:
        """What a line says. One that is no JSON is taken as it stands (Airflow before 3.2, a task's print)."""
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            return LogLine(line.rstrip("\n"))
        text = str(entry.get("event", ""))
        if match := _TASK.search(text):
            self._task = match[1]
        failed = entry.get("level") in {"error", "critical"}
        telling = failed or _OUR_LOGGERS.match(str(entry.get("logger", ""))) is not None
        return LogLine(f"{self._task}: {text}{_details(entry) if failed else ''}", telling)


def _details(entry: dict[str, Any]) -> str:
    """The exception an entry reports, without the chain and the traceback below it: those are for ``-v``."""
    chain = entry.get("exception")
    if not isinstance(chain, list) or not chain:
        return ""
    return f"\n  {chain[0].get('exc_type')}: {chain[0].get('exc_value')}"

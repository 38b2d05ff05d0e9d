"""What happened to one lock of a file store: a line for each event, the newest last, and not for ever."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_safecopy.lock import disk
from airflow_provider_safecopy.lock.file_fact import EVENT, demand_facts
from airflow_provider_safecopy.lock.model import Event

MOST_BYTES = 1 << 20
"""About 3,000 events; when there are more, the older half goes."""


@dataclass(frozen=True)
class FileHistory:
    """The file at `path`. Whoever writes to it is alone with it. Raises OSError.

    It is for people: the last line of somebody who was killed may be missing or torn, and is then left out.
    """

    path: Path

    def add(self, event: Event) -> None:
        """One event more."""
        line = _line(event)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" + line if torn else line)
        if size > MOST_BYTES:
            events = self.events()
            self._keep(events[len(events) // 2 :])

    def events(self) -> list[Event]:
        """All of them, the oldest first."""
        try:
            lines = disk.read(self.path).splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := _event(line)) is not None]

    def forget(self, before: datetime) -> int:
        """Remove what is older. How many there were."""
        events = self.events()
        kept = [event for event in events if event.at >= before]
        if len(kept) < len(events):
            self._keep(kept)
        return len(events) - len(kept)

    def _keep(self, events: list[Event]) -> None:
        disk.write(self.path, b"".join(map(_line, events)))


def _line(event: Event) -> bytes:
    data: dict[str, Any] = asdict(event) | {"at": event.at.isoformat()}
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _event(line: bytes) -> Event | None:
    try:
        data = json.loads(line.decode("utf-8", "surrogatepass"))
        demand_facts(data, EVENT)
        return Event(**data | {"at": datetime.fromisoformat(data["at"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None

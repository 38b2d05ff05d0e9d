"""What happened to one lock of a file store: a line for each event, the newest last, and not for ever."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_safecopy.lock import disk
from airflow_provider_safecopy.lock.file_fact import EVENT_FACTS, require_facts
from airflow_provider_safecopy.lock.model import Event

MAX_BYTES = 1 << 20
"""About 3,000 events; when there are more, the older half goes."""


@dataclass(frozen=True)
class FileHistory:
    """The file at `path`. Whoever writes to it is alone with it. Raises OSError.

    It is for people: the last line of somebody who was killed may be missing or torn, and is then left out.
    """

    path: Path

    def append(self, event: Event) -> None:
        """One event more."""
        line = _format_event(event)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" + line if torn else line)
        if size > MAX_BYTES:
            events = self.read_events()
            self._rewrite(events[len(events) // 2 :])

    def read_events(self) -> list[Event]:
        """All of them, the oldest first."""
        try:
            lines = disk.read_own_file(self.path).splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := _parse_event(line)) is not None]

    def drop_older(self, oldest: datetime) -> int:
        """Remove what is older. How many there were."""
        events = self.read_events()
        kept = [event for event in events if event.at >= oldest]
        if len(kept) < len(events):
            self._rewrite(kept)
        return len(events) - len(kept)

    def _rewrite(self, events: list[Event]) -> None:
        disk.replace_file(self.path, b"".join(map(_format_event, events)))


def _format_event(event: Event) -> bytes:
    data: dict[str, Any] = asdict(event) | {"at": event.at.isoformat()}
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _parse_event(line: bytes) -> Event | None:
    try:
        data = json.loads(line.decode("utf-8", "surrogatepass"))
        require_facts(data, EVENT_FACTS)
        return Event(**data | {"at": datetime.fromisoformat(data["at"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None

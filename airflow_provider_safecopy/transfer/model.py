"""The words a copy is asked for and told in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Transfer = Literal["auto", "sequential", "chunked"]
Format = Literal["auto", "text", "binary"]
WriteMode = Literal["replace", "append", "upsert", "incremental"]
Publish = Literal["auto", "swap", "delta", "delete_insert", "truncate_insert"]
Strategy = Literal["swap", "delta", "delete_insert", "truncate_insert", "create", "insert", "upsert"]
Missing = Literal["keep", "delete", "mark"]
Drift = Literal["fail", "ignore_extra", "add_columns"]
Verify = Literal["counts", "full"]
SizeClass = Literal["any", "small", "tiny"]
Status = Literal["published", "already_published", "planned", "skipped"]
Stage = Literal["connect", "plan", "export", "import", "verify", "prepare", "publish", "analyze", "refresh"]

MiB = 1024 * 1024


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `bytes` so far of about `expected_bytes`, None where nobody can know."""

    stage: Stage
    bytes: int = 0
    rows: int | None = None
    expected_rows: int | None = None
    expected_bytes: int | None = None

"""What a way has written, still in its transaction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WrittenRows:
    """Rows by what became of them, how many the target held before (`previous_rows`), and holds now (`current_rows`).

    `was_empty`: the target held no row before. The counts, and `deleted`, are None where counting them would mean reading a table of any length for nothing.
    `deleted` counts rows the source no longer has, not those a way deletes in order to write them again.
    """

    inserted: int
    updated: int
    deleted: int | None
    unchanged: int
    previous_rows: int | None
    current_rows: int | None
    was_empty: bool = False

    def __str__(self) -> str:
        holds = "" if self.current_rows is None else f"holds {self.current_rows} rows"
        before = "" if self.previous_rows is None else f" (before: {self.previous_rows})"
        changes = (
            f"{self.inserted} inserted, {self.updated} updated, "
            f"{'all others' if self.deleted is None else self.deleted} deleted, {self.unchanged} unchanged"
        )
        return f"{holds}{before}: {changes}" if holds else changes

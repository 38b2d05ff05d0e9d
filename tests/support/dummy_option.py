"""A spec with one option more than `CopySpec`, declared as any other."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_safecopy import kind
from airflow_provider_safecopy.option import LATER, Alias, option
from airflow_provider_safecopy.spec import TRANSFER, CopySpec


@dataclass(frozen=True, kw_only=True)
class DummySpec(CopySpec):
    """A copy with a colour and a number of dots."""

    paint_colour: str | None = option(
        None,
        kind.NAME,
        "Colour beside `min_rows`.",
        group=TRANSFER,
        templated=True,
        stand_in=LATER,
        aliases=(Alias("hue"),),
    )
    dots: int = option(3, kind.COUNT, "How many dots.", group=TRANSFER, shared=True)

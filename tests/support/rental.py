"""A shop that rents films out: a schema as it grows over the years, with Korean names, to publish into and lose nothing of."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.database import Database

SCHEMA = "대여점"
TABLES = (
    *("언어", "배우", "영화", "영화_배우", "매장", "직원", "고객", "재고", "대여", "결제"),
    *('회원 등급.Grade"s', "영화대여점회원등급변경이력보관용기록표하나"),
)
"""What is copied: the tables that others refer to come before these."""

_ROLES = ("점주", "점원", "분석가")
_SHAPE, _ROWS = (Path(__file__).with_name(f"{name}.sql").read_text("utf-8") for name in ("rental", "rental_rows"))


@contextlib.contextmanager
def roles(database: Database) -> Iterator[Mapping[str, str]]:
    """The shop's roles, which are the whole server's, under names of their own. Dropped with all they have in `database`."""
    names = {role: f"{role}_{secrets.token_hex(4)}" for role in _ROLES}
    listed = ", ".join(names.values())
    for name in names.values():
        database.execute(f"CREATE ROLE {name}")
    try:
        yield names
    finally:
        database.execute(f"DROP OWNED BY {listed} CASCADE; DROP ROLE {listed}")


def create(database: Database, names: Mapping[str, str]) -> None:
    """The shop, without rows. `names` are its `roles`."""
    shape = _SHAPE
    for role, name in names.items():
        shape = shape.replace(f"@{role}", name)
    database.execute(shape)


def fill(database: Database, rows: int, seed: int = 0) -> None:
    """So many rentals, and of everything else in proportion; analyzed. Another seed, other rows here and there."""
    database.execute(_ROWS.replace(":rows", str(rows)).replace(":seed", str(seed)))

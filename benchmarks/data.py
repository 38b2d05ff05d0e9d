"""The tables that are copied: what they hold, and how they come to be of a given size.

Sizes are of the table's heap on the source, in bytes; a table is never smaller than it was asked to be.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from psycopg import sql

from benchmarks.pair import Pair

_SPARE = 1.01
"""Rows are counted by what they took on average; a little more, so that the size is reached."""

_TEXTS = """
WITH words AS (
  SELECT array_agg((SELECT string_agg(substr('가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로모보소오조초코토포호', 1 + (i * 7 + k * 13) % 40, 3), ' ')
                    FROM generate_series(1, 15) k)) AS word
  FROM generate_series(0, 996) i)
INSERT INTO {table}
SELECT g, '고객 ' || g, '서울특별시 강남구 테헤란로 ' || g % 1000 || '길 ' || g % 89, word[1 + g % 997], word[1 + g * 7 % 997],
       word[1 + g * 31 % 997], '비고 ' || md5(g::text)
FROM generate_series(1, {rows}::bigint) g, words"""

_INTEGERS = """
INSERT INTO {table}
SELECT g, g * 7919 % 1000003, g * 1000003, g % 30000 FROM generate_series(1, {rows}::bigint) g"""

_TYPES = """
INSERT INTO {table}
SELECT g % 2 = 0, g % 32000, g * 7919 % 2000000011, g * 1000003, g % 1000003 / 100.0, g / 7.0, g / 7.0, sqrt(g),
       date '2020-01-01' + (g % 3000)::integer, time '00:00' + g % 86400 * interval '1 second',
       timestamp '2020-01-01' + g % 90000000 * interval '1 second',
       timestamptz '2020-01-01 00:00+09' + g % 90000000 * interval '1.001 second',
       make_interval(days => (g % 400)::integer, secs => g % 86400), md5(g::text)::uuid, decode(md5(g::text), 'hex'),
       jsonb_build_object('번호', g, '이름', '고객 ' || g, '등급', g % 5), ARRAY[g % 100, g % 1000, g % 10000]::integer[],
       ARRAY['가나다', '라마바', (g % 1000)::text], inet '10.0.0.0' + g % 16777216, '서울특별시 강남구 ' || g
FROM generate_series(1, {rows}::bigint) g"""

_LINE_ITEMS = """
INSERT INTO {table}
SELECT g / 4, g * 7919 % 200000, g * 31 % 10000, g % 4 + 1, g % 50 + 1, g * 7919 % 10000000 / 100.0, g % 11 / 100.0, g % 9 / 100.0,
       substr('RAN', (g % 3)::integer + 1, 1), substr('OF', (g % 2)::integer + 1, 1), date '1992-01-01' + (g % 2500)::integer,
       date '1992-02-01' + (g % 2500)::integer, date '1992-01-15' + (g % 2500)::integer,
       (ARRAY['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[g % 4 + 1],
       (ARRAY['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[g % 7 + 1], substr(md5(g::text) || md5((g * 7)::text), 1, 10 + (g % 34)::integer)
FROM generate_series(1, {rows}::bigint) g"""

_LINE_ITEM_COLUMNS = """
    주문번호 bigint NOT NULL, 부품번호 bigint NOT NULL, 공급자번호 bigint NOT NULL, 줄번호 integer NOT NULL,
    수량 numeric(15,2) NOT NULL, 금액 numeric(15,2) NOT NULL, 할인 numeric(15,2) NOT NULL, 세금 numeric(15,2) NOT NULL,
    반품여부 char(1) NOT NULL, 상태 char(1) NOT NULL, 출하일 date NOT NULL, 약속일 date NOT NULL, 수령일 date NOT NULL,
    출하지시 char(25) NOT NULL, 출하방법 char(10) NOT NULL, 비고 varchar(44) NOT NULL"""


@dataclass(frozen=True)
class Table:
    """One kind of table: `row_bytes` is what a row takes of the heap; without `fill`, TPC-H's generator makes it.

    `primary` are the columns of its primary key, if it has one.
    """

    name: str
    columns: str
    row_bytes: float
    fill: str | None
    told: str
    primary: str | None = None

    def rows(self, size: int) -> int:
        """How many it takes to reach so many bytes of heap."""
        return math.ceil(size * _SPARE / self.row_bytes)


TABLES: dict[str, Table] = {
    "lineitem": Table("주문_명세", _LINE_ITEM_COLUMNS, 165.8, None, "TPC-H's lineitem, by its generator"),
    "korean": Table(
        "고객_메모",
        "번호 bigint NOT NULL, 이름 text, 주소 text, 본문 text, 요청 text, 답변 text, 비고 text",
        630.0,
        _TEXTS,
        "a number and six Korean texts",
    ),
    "integers": Table(
        "좁은_정수",
        "번호 integer NOT NULL, 수량 integer NOT NULL, 코드 bigint NOT NULL, 등급 smallint",
        51.9,
        _INTEGERS,
        "four integers",
    ),
    "types": Table(
        "온갖_형",
        """여부 boolean, 작은수 smallint, 수 integer, 큰수 bigint, 금액 numeric(12,2), 소수 numeric, 실수 real, 배정밀도 double precision,
           날짜 date, 시각 time, 일시 timestamp, 시점 timestamptz, 기간 interval, 식별자 uuid, 바이트 bytea, 문서 jsonb,
           수들 integer[], 글들 text[], 주소 inet, 이름 text""",
        381.0,
        _TYPES,
        "twenty columns of as many types",
    ),
    "like-lineitem": Table(
        "주문_명세_닮은", _LINE_ITEM_COLUMNS, 165.8, _LINE_ITEMS, "like lineitem, made by the server"
    ),
}

KEYED = "-keyed"
"""Ends the key of a table that is like another, with a primary key."""

_PRIMARY = {"lineitem": "주문번호, 줄번호", "korean": "번호", "integers": "번호", "types": "식별자"}
TABLES |= {
    key + KEYED: replace(TABLES[key], primary=columns, told=f"{TABLES[key].told}; with a primary key")
    for key, columns in _PRIMARY.items()
}


@dataclass(frozen=True)
class Data:
    """A table that is there on both sides, by its name; `heap` in bytes. Both have the same columns, and primary key if any."""

    key: str
    name: str
    rows: int
    heap: int

    @property
    def quoted(self) -> str:
        return f'public."{self.name}"'


def make(pair: Pair, key: str, size: int) -> Data:
    """Fill the source's table and the target's with the same rows: what is measured is to replace them."""
    table = TABLES[key]
    name = f"{table.name}_{size // 1_000_000}"
    shape = sql.SQL("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} ({columns})").format(
        table=sql.Identifier(name),
        columns=sql.SQL(table.columns),
    )
    for server in (pair.source, pair.target):
        server.execute(pair.database, shape.as_string())
    _fill(pair, table, name, size)
    heap = pair.source.execute(pair.database, "SELECT pg_table_size(%s::text::regclass)", [f'"{name}"'])[0][0]
    rows = pair.source.execute(
        pair.database, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name)).as_string()
    )
    data = Data(key, name, int(rows[0][0]), int(heap))
    pair.copy_as_it_is(data.quoted)
    if table.primary:
        _index(pair, table.primary, name)
    return data


def drop(pair: Pair, data: Data) -> None:
    for server in (pair.source, pair.target):
        server.execute(pair.database, sql.SQL("DROP TABLE {}").format(sql.Identifier(data.name)).as_string())


def _index(pair: Pair, primary: str, name: str) -> None:
    shape = sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(sql.Identifier(name), sql.SQL(primary)).as_string()
    for server in (pair.source, pair.target):
        server.execute(pair.database, shape)


def _fill(pair: Pair, table: Table, name: str, size: int) -> None:
    if table.fill is None:
        _generate(pair, name, size / (6_001_215 * table.row_bytes) * _SPARE)
    else:
        fill = sql.SQL(table.fill).format(table=sql.Identifier(name), rows=table.rows(size))
        pair.source.execute(pair.database, fill.as_string())
    pair.source.execute(pair.database, sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(name)).as_string())


def _generate(pair: Pair, name: str, scale: float) -> None:
    """TPC-H's lineitem at this scale factor, of which 1 has 6,001,215 rows, by way of a file that is removed."""
    with tempfile.TemporaryDirectory(prefix="safecopy-bench-") as directory:
        command = [generator(), "csv", "-s", f"{scale:.5f}", "-T", "lineitem", "-o", directory]
        subprocess.run(command, check=True, capture_output=True)
        (made,) = Path(directory).glob("lineitem*.csv")
        with made.open("rb") as rows:
            pair.feed(
                pair.source, sql.SQL("COPY {} FROM STDIN (FORMAT csv, HEADER)").format(sql.Identifier(name)), rows
            )


def generator() -> str:
    """`tpchgen-cli`, of this environment or of the PATH. Raises FileNotFoundError where there is none."""
    beside = Path(sys.executable).with_name("tpchgen-cli")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("tpchgen-cli")
    if found is None:
        raise FileNotFoundError(
            "tpchgen-cli makes the table 'lineitem': use `make bench`, which installs it, or another table"
        )
    return found

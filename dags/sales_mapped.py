"""영업_전체_복사: one mapped task for each table of a list.

It uses the connections and tables of `sales_copy.py`.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

TABLES = ("고객", "주문_내역", "월별지역별상품군별매출실적및재고현황집계표")

with DAG(
    "영업_전체_복사",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="Asia/Seoul"),
    catchup=False,
    max_active_runs=1,
    tags=["영업", "safecopy"],
    doc_md="""\
    ### 목록에 있는 테이블을 모두 복사

    테이블마다 작업이 하나씩 만들어지고, 한 번에 두 개까지 실행됩니다.

    *One task for each table of the list, two of them at a time.*
    """,
):
    SafeCopyOperator.partial(
        task_id="표_복사",
        source_conn_id="erp",
        target_conn_id="dw",
        max_active_tis_per_dagrun=2,
        map_index_template="{{ task.target_table[1] }}",
    ).expand_kwargs(
        # A pair (schema, table) is taken as it stands, dots and quotes included.
        [{"source_table": ("영업", table), "target_table": ("분석", table)} for table in TABLES],
    )

"""영업_복사: the sales tables of an ERP, copied each night into a data warehouse.

What it needs: two connections of type `postgres`, `erp` and `dw`. In a terminal that is

    export AIRFLOW_CONN_ERP='postgres://user:password@host:5432/database'
    export AIRFLOW_CONN_DW='postgres://user:password@host:5432/database'
    airflow dags test 영업_복사

The names of files stay ASCII: some systems spell Korean ones in another Unicode form on the way.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG  # Airflow 2.11 to 3.x; with Airflow 3 alone: airflow.sdk

from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

with DAG(
    "영업_복사",
    schedule="@daily",
    start_date=pendulum.datetime(2024, 1, 1, tz="Asia/Seoul"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2},
    tags=["영업", "safecopy"],
    doc_md="""\
    ### 영업 테이블 복사

    ERP의 `영업` 스키마에 있는 세 테이블을 매일 밤 데이터 웨어하우스의 `분석` 스키마로 복사합니다.
    복사가 끝나는 순간 새 행으로 한꺼번에 바뀌며, 실패하면 어제의 행이 그대로 남습니다.

    *Copies three tables from the ERP's schema `영업` into the warehouse's schema `분석`, each night.
    Readers see yesterday's rows until the very moment they see today's; if a copy fails, yesterday's stay.*
    """,
):
    SafeCopyOperator(
        task_id="고객_복사",
        source_conn_id="erp",
        target_conn_id="dw",
        source_table="영업.고객",
        target_table="분석.고객",
    )

    SafeCopyOperator(
        task_id="주문_내역_복사",
        source_conn_id="erp",
        target_conn_id="dw",
        source_table="영업.주문_내역",
        target_table="분석.주문_내역",
        verify="full",  # compares a hash of the rows on both sides as well
    )

    SafeCopyOperator(
        task_id="매출_집계_복사",
        source_conn_id="erp",
        target_conn_id="dw",
        # 21 syllables are 63 bytes, all that PostgreSQL allows a name.
        source_table="영업.월별지역별상품군별매출실적및재고현황집계표",
        target_table="분석.월별지역별상품군별매출실적및재고현황집계표",
    )

"""일별_주문_복사: the result of a query over one day, the day being the run's data interval.

It uses the connections and tables of `sales_copy.py`. A day is given like this:

    airflow dags test 일별_주문_복사 2024-03-01
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG, chain
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.timetables.interval import CronDataIntervalTimetable

from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

with DAG(
    "일별_주문_복사",
    # Airflow 3 takes "@daily" for a moment, not for a day; this timetable gives each run its day.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="Asia/Seoul"),
    start_date=pendulum.datetime(2024, 1, 1, tz="Asia/Seoul"),
    catchup=False,
    max_active_runs=1,
    tags=["영업", "safecopy"],
    doc_md="""\
    ### 하루치 주문

    하루 동안의 주문을 고객 이름과 합쳐 `분석.일별_주문`에 담습니다. 표에는 늘 하루치만 들어 있습니다.

    *The orders of one day, joined with their customers' names, replace the rows of `분석.일별_주문`.*
    """,
):
    chain(
        SQLExecuteQueryOperator(
            task_id="표_준비",
            conn_id="dw",
            sql="""
                CREATE TABLE IF NOT EXISTS 분석.일별_주문
                (주문번호 bigint PRIMARY KEY, 주문일시 timestamptz, 고객명 text, 상품명 text, 금액 numeric)
            """,
            do_xcom_push=False,
        ),
        SafeCopyOperator(
            task_id="주문_복사",
            source_conn_id="erp",
            target_conn_id="dw",
            # Names carry their schema, and the moments their zone: nothing depends on the server's settings.
            source_sql="""
                SELECT 주문.주문번호, 주문.주문일시, 고객.이름 AS 고객명, 주문.상품명, 주문.수량 * 주문.단가 AS 금액
                FROM 영업.주문_내역 AS 주문 JOIN 영업.고객 AS 고객 USING (고객번호)
                WHERE 주문.주문일시 >= '{{ data_interval_start }}' AND 주문.주문일시 < '{{ data_interval_end }}'
            """,
            target_table="분석.일별_주문",
            min_rows=0,  # a day without orders is a day, too
        ),
    )

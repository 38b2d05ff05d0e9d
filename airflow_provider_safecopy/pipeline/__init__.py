"""The straight line, and the only place where lock and transfer meet: `copy` does it, `plan` only says how.

`copy_tables` and `plan_tables` do the same for many tables in one call.
"""

from airflow_provider_safecopy.pipeline.batch import copy_tables, plan_tables
from airflow_provider_safecopy.pipeline.line import copy, plan
from airflow_provider_safecopy.pipeline.transport import CHUNKED_SPOOL_BYTES, WINDOW_BYTES

__all__ = ["CHUNKED_SPOOL_BYTES", "WINDOW_BYTES", "copy", "copy_tables", "plan", "plan_tables"]

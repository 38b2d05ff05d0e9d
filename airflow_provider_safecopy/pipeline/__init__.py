"""The straight line, and the only place where lock and transfer meet: `copy` does it, `plan` only says how."""

from airflow_provider_safecopy.pipeline.line import copy, plan
from airflow_provider_safecopy.pipeline.transport import CHUNKED_SPOOL_BYTES, WINDOW_BYTES

__all__ = ["CHUNKED_SPOOL_BYTES", "WINDOW_BYTES", "copy", "plan"]

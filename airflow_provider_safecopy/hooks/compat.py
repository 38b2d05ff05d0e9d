"""Ids that are not Latin-1, under ``airflow dags test`` and ``airflow tasks test`` of Airflow 3.

There, tasks speak to an API inside their own process. httpx hands it the path as it is read, where WSGI
(PEP 3333) demands its UTF-8 bytes spelled as Latin-1, and a2wsgi insists: pushing the result of a task
called 고객_복사, or of any task in a DAG called 영업_복사, fails, after the copy has been published.
Seen with Airflow 3.2.2 and 3.3.2, httpx 0.28, a2wsgi 1.10. The real API server is not concerned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any


class _EncodedPaths:
    """A WSGI application whose path is spelled as WSGI demands, by the time the one behind it reads it."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        try:
            path.encode("latin-1")
        except UnicodeEncodeError:
            environ["PATH_INFO"] = path.encode().decode("latin-1")
        return self._application(environ, start_response)


def patch_non_latin1_ids() -> None:
    """Mend the in-process API of the running task, where there is one. Anywhere else this does nothing."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    supervisor = getattr(getattr(runner, "SUPERVISOR_COMMS", None), "supervisor", None)
    transport = getattr(getattr(supervisor, "client", None), "_transport", None)
    # None: Airflow 2, or a supervisor in a process of its own.
    application = getattr(transport, "app", None)
    if transport is not None and application is not None and not isinstance(application, _EncodedPaths):
        transport.app = _EncodedPaths(application)

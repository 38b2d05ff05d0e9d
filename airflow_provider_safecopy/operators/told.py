"""Our errors as Airflow's: translated once, on the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_safecopy.errors import SafeCopyError


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate our errors into the exceptions by which Airflow decides about a retry."""
    try:
        yield
    except SafeCopyError as error:
        kind = AirflowException if error.retryable else AirflowFailException
        raise kind(format_error(error)) from error


def format_error(error: SafeCopyError) -> str:
    """The error's name, message and data. What psql said last is in the message already."""
    data = error.as_dict()
    shown = {key: data[key] for key in data if key not in ("type", "message", "hint", "refusals", "stderr_tail")}
    return f"{type(error).__name__}: {error} [{', '.join(f'{key}={value}' for key, value in shown.items())}]"

"""The `safecopy` command. It imports no Airflow, and what is heavy only when a command needs it."""

from airflow_provider_safecopy.cli.process import main

__all__ = ["main"]

"""Airflow triggers: what is waited for without a worker."""

"""Airflow hooks: where the two databases are."""

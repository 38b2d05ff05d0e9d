"""Airflow operators: one copy, as a task."""

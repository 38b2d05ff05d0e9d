"""The Airflow doors, opened by Airflow itself."""

"""The demo: two embedded PostgreSQL servers, Korean tables, one real Airflow run."""

"""The suite: real servers, real psql, real Airflow."""

"""Moving rows: describe, plan, export, load into staging, verify, publish."""

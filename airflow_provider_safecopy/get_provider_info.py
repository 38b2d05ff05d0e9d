"""The provider's metadata, which Airflow reads at start. It imports nothing, because every process pays for it."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, in the shape of Airflow's ``provider_info.schema.json``.

    There is no connection type: both ends are plain ``postgres`` connections.
    """
    return {
        "package-name": "airflow-provider-safecopy",
        "name": "SafeCopy",
        "description": (
            "Copies PostgreSQL tables between databases with psql. "
            "At every instant the target holds exactly the old rows or exactly the new rows, never a part."
        ),
        "integrations": [
            {
                "integration-name": "SafeCopy",
                "external-doc-url": "https://www.postgresql.org/docs/current/sql-copy.html",
                "tags": ["software"],
            },
        ],
        "hooks": [
            {
                "integration-name": "SafeCopy",
                "python-modules": ["airflow_provider_safecopy.hooks.safecopy"],
            },
        ],
        "operators": [
            {
                "integration-name": "SafeCopy",
                "python-modules": [
                    "airflow_provider_safecopy.operators.living_lock",
                    "airflow_provider_safecopy.operators.living_lock",
                    "airflow_provider_safecopy.operators.safecopy",
                ],
            },
        ],
        "triggers": [
            {
                "integration-name": "SafeCopy",
                "python-modules": ["airflow_provider_safecopy.triggers.living_lock"],
            },
        ],
        "config": {
            "safecopy": {
                "description": "Options of the SafeCopy provider.",
                "options": {
                    "deployment_id": {
                        "description": (
                            "A name for this Airflow, recorded in the target beside each copy and each lock. Two "
                            "Airflows that write into one database tell their runs apart by it: a lock whose run is "
                            "over in the Airflow of that name is free at once. Default: ``[api] base_url``."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "production",
                        "default": None,
                    },
                },
            },
        },
    }

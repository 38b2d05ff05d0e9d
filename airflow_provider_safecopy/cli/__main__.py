"""``python -m airflow_provider_safecopy.cli`` is the `safecopy` command."""

import sys

from airflow_provider_safecopy.cli.entry import main

sys.exit(main())

"""``python -m airflow_provider_safecopy.cli`` is the `safecopy` command."""

import sys

from airflow_provider_safecopy.cli.process import main

sys.exit(main())

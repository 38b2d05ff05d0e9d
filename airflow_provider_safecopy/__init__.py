"""Copy PostgreSQL tables between databases, safely: the target holds the old rows or the new ones.

Importing this package imports nothing heavy. The plain Python entry is `pipeline.copy`; Airflow's are
`operators.safecopy.SafeCopyOperator` and `hooks.safecopy.SafeCopyHook`; the command is `safecopy`.
"""

__version__ = "0.1.0"

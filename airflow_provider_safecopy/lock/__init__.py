"""The lock of a run: who may publish, proven by a token inside the publishing transaction."""

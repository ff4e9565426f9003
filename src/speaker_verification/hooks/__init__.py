"""Kedro hooks: checks, locks, resumption and tracking of runs."""

"""Hooks round runs and nodes: locks, checks, resumption, tracking."""

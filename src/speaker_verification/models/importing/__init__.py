"""Checkpoints of the public codes."""

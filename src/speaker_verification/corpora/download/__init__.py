"""Resumable, checksum-verified downloads."""

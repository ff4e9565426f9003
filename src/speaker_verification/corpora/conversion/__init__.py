"""Conversion of archives to audio folders."""

"""Wiring only: what is computed lives in the library floors."""

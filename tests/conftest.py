"""Shared by all tests: one thread, so that figures and timings do not depend on the machine's load."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("untimed", deadline=None)  # how long an example takes depends on the machine
settings.load_profile("untimed")

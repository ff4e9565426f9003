"""Environment and fixtures shared by all tests."""

from __future__ import annotations

import os
import sys

from hypothesis import settings

from tests.support.imports import import_folder as import_folder
from tests.support.project import project as project

os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of tiny models, threads take several times as long as one
sys.modules.setdefault("ibis", None)  # Kedro looks for it on the whole path at every parameter

settings.register_profile("untimed", deadline=None)  # how long an example takes depends on the machine
settings.load_profile("untimed")

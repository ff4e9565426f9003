"""Fixtures of the reporting tests."""

from __future__ import annotations

from tests.support.tiny_models import encoder_folder as encoder_folder

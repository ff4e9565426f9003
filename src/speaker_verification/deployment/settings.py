"""Parameters of a deployed verifier."""

from __future__ import annotations

from pydantic import Field, model_validator

from speaker_verification.audio.files import MAX_SAMPLES
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.settings_base import Settings
from speaker_verification.scoring.settings import ExtractionSettings, ScoreSettings


class LimitSettings(Settings):
    """Recordings that a verifier takes."""

    least_seconds: float = Field(0.5, gt=0)
    """Shortest recording that is compared in seconds; by default as in preparation."""
    most_seconds: float = Field(MAX_SAMPLES / SAMPLE_RATE, gt=0)
    """Longest recording that is compared in seconds."""

    @model_validator(mode="after")
    def _in_order(self) -> LimitSettings:
        if self.least_seconds > self.most_seconds:
            raise ValueError(
                f"least_seconds is {self.least_seconds:g}, above most_seconds, {self.most_seconds:g}"
            )
        return self


class VerifierSettings(Settings):
    """Parameters by which a verifier was measured."""

    extraction: ExtractionSettings = ExtractionSettings()
    """Parts of a recording that are embedded."""
    score: ScoreSettings = ScoreSettings()
    """Scorings, their calibration and the operating points."""
    limits: LimitSettings = LimitSettings()
    """Recordings that are taken."""


class PackageSettings(LimitSettings):
    """Parameters under `package`."""

    licence: str = "other"
    """Licence of the packaged model for its card, by its name on the Hugging Face hub."""

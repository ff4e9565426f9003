"""Parameters of a deployed verifier."""

from __future__ import annotations

from pydantic import model_validator

from speaker_verification.common.settings_base import Settings
from speaker_verification.deployment.recordings import RecordingLimits
from speaker_verification.scoring.settings import ExtractionSettings, ScoreSettings


class VerifierSettings(Settings):
    """Parameters by which a verifier was measured."""

    extraction: ExtractionSettings = ExtractionSettings()
    """Parts of a recording that are embedded."""
    score: ScoreSettings = ScoreSettings()
    """Scorings, their calibration and the operating points."""
    limits: RecordingLimits = RecordingLimits()
    """Recordings that are used."""


class PackageSettings(Settings):
    """Parameters under `package`."""

    limits: RecordingLimits = RecordingLimits()
    """Recordings that the verifier uses; others are refused by a named reason."""
    licence: str = "other"
    """Licence of the packaged model for its card, by its name on the Hugging Face hub."""
    registered_model: str | None = None
    """Name under which MLflow registers the verifier as a new version; null: it is logged alone."""
    alias: str | None = None
    """Alias that MLflow's registry moves to this version, such as champion; null: none."""

    @model_validator(mode="after")
    def _named(self) -> PackageSettings:
        if self.alias is not None and self.registered_model is None:
            raise ValueError(f"alias is '{self.alias}': set registered_model, of whose versions it names one")
        return self

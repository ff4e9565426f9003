"""Parameters of embedding and scoring; the defaults are the published recipe's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from speaker_verification.configuration import Settings
from speaker_verification.scoring.blocks import Workspace


class EmbedSettings(Settings):
    """Parameters under `embed`."""

    model: str | None = None
    choose_top: int = Field(1, ge=1)
    cohort_set: str = "voxceleb2-dev"
    allow_seen_speakers: bool = False
    batch_seconds: float = Field(160.0, gt=0)
    max_seconds: float | None = Field(None, gt=0)
    num_crops: int = Field(0, ge=0)
    crop_seconds: float = Field(4.015, gt=0)
    num_workers: int = Field(4, ge=0)


class ScoreSettings(Settings):
    """Parameters under `score`."""

    centre: bool = True
    cohort: Literal["speaker_means", "utterances"] = "speaker_means"
    cohort_size: int = Field(600, ge=2)
    deviation: Literal["unbiased", "biased"] = "unbiased"
    calibration_trials: int = Field(30_000, ge=2, multiple_of=2)
    memory_gigabytes: float = Field(1.0, gt=0)
    num_threads: int | None = Field(None, ge=1)

    def workspace(self, device: str = "cpu") -> Workspace:
        """What scoring may use."""
        return Workspace(self.memory_gigabytes, self.num_threads, device)

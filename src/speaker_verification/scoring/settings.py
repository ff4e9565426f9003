"""Parameters of embedding and scoring; the defaults are the published recipe's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from speaker_verification.audio.crops import LEAST_WINDOW_SECONDS, WINDOW_SECONDS
from speaker_verification.common.settings_base import LocalPath, Settings
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.metrics import OperatingPoint

Scoring = Literal["cosine", "as_norm", "qmf"]
Probability = Annotated[float, Field(gt=0, lt=1)]


class EmbedSettings(Settings):
    """Parameters under `embed`."""

    model: LocalPath | None = None
    choose_top: int = Field(1, ge=1)
    cohort_set: str = "voxceleb2-dev"
    allow_seen_speakers: bool = False
    batch_seconds: float = Field(160.0, gt=0)
    window_seconds: float = Field(WINDOW_SECONDS, ge=LEAST_WINDOW_SECONDS, allow_inf_nan=False)
    max_seconds: float | None = Field(None, gt=0)
    num_crops: int = Field(0, ge=0)
    crop_seconds: float = Field(4.015, gt=0)
    num_workers: int = Field(4, ge=0)


class ScoreSettings(Settings):
    """Parameters under `score`."""

    centre: bool = True
    cohort: Literal["speaker_means", "utterances"] = "speaker_means"
    top_n: int = Field(600, ge=2)
    deviation: Literal["unbiased", "biased"] = "unbiased"
    calibration_trials: int = Field(30_000, ge=2, multiple_of=2)
    calibration_speakers: Literal["cohort", "validation"] = "cohort"
    calibration_prior: Probability = 0.5
    llr: Scoring = "qmf"
    p_targets: tuple[Probability, ...] = Field((0.01, 0.05), min_length=1)
    c_miss: float = Field(1.0, gt=0)
    c_fa: float = Field(1.0, gt=0)
    bootstrap_resamples: int = Field(200, ge=0)
    memory_gigabytes: float = Field(1.0, gt=0)
    num_threads: int | None = Field(None, ge=1)

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """What decisions are measured for."""
        return tuple(OperatingPoint(p_target, self.c_miss, self.c_fa) for p_target in self.p_targets)

    def budget(self, device: str = "cpu") -> ComputeBudget:
        """What scoring may use."""
        return ComputeBudget(self.memory_gigabytes, self.num_threads, device)


class ReportSettings(Settings):
    """Parameters under `report`."""

    duration_edges: tuple[float, ...] = Field((2.0, 4.0, 6.0, 8.0, 12.0), min_length=1)
    min_trials: int = Field(30, ge=1)
    worst_trials: int = Field(20, ge=1)

    @field_validator("duration_edges")
    @classmethod
    def _rise(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if list(edges) != sorted(set(edges)):
            raise ValueError("must rise from one to the next")
        return edges


class MeasureSettings(Settings):
    """Parameters under `measure`."""

    score_file: LocalPath | None = None
    speakers: LocalPath | None = None
    calibrated: bool = False

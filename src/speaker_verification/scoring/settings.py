"""Parameters of embedding and scoring; the defaults are the published recipe's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from speaker_verification.audio.crops import LEAST_WINDOW_SECONDS, WINDOW_SECONDS
from speaker_verification.common.precision import Precision
from speaker_verification.common.settings_base import ListName, LocalPath, Settings
from speaker_verification.scoring.adaptation import Adaptation
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.pieces import PIECE_SECONDS
from speaker_verification.scoring.scorings import SCORINGS, Scoring, find_scorings
from speaker_verification.scoring.scorings.base import Probability, SharedSettings


class ExtractionSettings(Settings):
    """Parts of a recording that are embedded."""

    batch_seconds: float = Field(160.0, gt=0)
    """Audio of a batch in seconds; a batch holds utterances of one length."""
    window_seconds: float = Field(WINDOW_SECONDS, ge=LEAST_WINDOW_SECONDS, allow_inf_nan=False)
    """Longest excerpt embedded in one piece in seconds; longer recordings are averaged over windows."""
    max_seconds: float | None = Field(None, gt=0)
    """Excerpt from the beginning of each utterance in seconds; null: all of it."""
    num_crops: int = Field(0, ge=0)
    """Evenly spaced crops of the trials' utterances, a second view for cosine; 0: none."""
    crop_seconds: float = Field(4.015, gt=0)
    """Length of these crops in seconds; a shorter utterance wraps round."""
    precision: Precision = "float32"
    """Precision of the forward pass on a GPU; bfloat16 by autocast, tf32 is float32 on a CPU."""

    @property
    def extraction(self) -> dict[str, Any]:
        """Arguments of `extract_embeddings` by name."""
        return {name: getattr(self, name) for name in ExtractionSettings.model_fields}


class EmbedSettings(ExtractionSettings):
    """Parameters under `embed`."""

    model: LocalPath | None = None
    """Saved model to evaluate, or phase whose best epoch it is; null: that of the large-margin phase."""
    choose_top: int = Field(1, ge=1)
    """Rank of the large-margin phase's checkpoint; 1: the best."""
    cohort_set: str = "voxceleb2-dev"
    """Subset, union of subsets, or several joined by +, for centring, AS-norm and PLDA."""
    cohort_utterances_per_speaker: int | None = Field(None, ge=1)
    """Utterances of a cohort speaker, spread over its sessions; null: all, as published."""
    calibration_set: str | None = None
    """Subset, union of subsets, or several joined by +, for calibration; null: the cohort set."""
    adaptation_set: str | None = None
    """Subset, union of subsets, or several joined by +, for score.adaptation; null: none."""
    allow_seen_speakers: bool = False
    """Allow speakers of the trials in these sets."""
    save_every_seconds: float = Field(PIECE_SECONDS, gt=0)
    """Audio in seconds after which a process saves what it has embedded."""
    num_workers: int = Field(4, ge=0)
    """Threads that read audio ahead."""

    @property
    def named_sets(self) -> dict[str, str]:
        """Named sets that are embedded beside the trials' utterances, by their parameter."""
        names = {name: getattr(self, name) for name in ("cohort_set", "calibration_set", "adaptation_set")}
        return {name: value for name, value in names.items() if value is not None}


class ImportSettings(Settings):
    """Parameters under `import_embeddings`."""

    system: str | None = None
    """Name of the system that made the embeddings, for the report; null: the trials' file in its folder."""
    trials: LocalPath | None = None
    """Embeddings of the trials' utterances: an npz, ark, scp or Parquet file, or a folder of `embeddings`."""
    cohort: LocalPath | None = None
    """Embeddings of other speakers likewise, for centring, AS-norm and calibration."""
    utterances: tuple[LocalPath, ...] = ()
    """Speakers of all these utterances: utt2spk files, folders of Kaldi, CSV or Parquet tables."""
    trial_lists: dict[ListName, LocalPath] = Field(default_factory=dict)
    """Trial lists in VoxCeleb's or Kaldi's format: names and files."""

    @property
    def name(self) -> str:
        """Name of the system."""
        return self.system or "/".join(Path(self.trials or "").absolute().parts[-2:])


class ScoringGroups(SharedSettings):
    """The scorings that are computed, and a group of parameters for each registered one that has any."""

    scorings: tuple[str, ...] | None = Field(None, min_length=1)
    """Scorings that are computed, in order, also dotted names of classes; null: all registered ones."""
    custom: dict[str, dict[str, Any]] = Field({})
    """Parameters of scorings from elsewhere by dotted name."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, scoring in SCORINGS.items():
            if scoring.Settings.model_fields:
                cls.__annotations__[name] = scoring.Settings
                setattr(cls, name, scoring.Settings())

    @field_validator("scorings")
    @classmethod
    def _known(cls, scorings: tuple[str, ...] | None) -> tuple[str, ...] | None:
        find_scorings(scorings)
        return scorings

    @field_validator("custom")
    @classmethod
    def _fits_classes(
        cls, groups: dict[str, dict[str, Any]], info: ValidationInfo
    ) -> dict[str, dict[str, Any]]:
        others = [name for name in info.data.get("scorings") or () if name not in SCORINGS]
        if unknown := [name for name in groups if name not in others]:
            raise ValueError(f"{', '.join(unknown)} is no scoring from elsewhere that scorings names")
        for name, values in groups.items():
            SCORINGS.find(name).Settings.parse(values, name)
        return groups

    @property
    def chosen(self) -> dict[str, type[Scoring]]:
        """The scorings that are computed, by name, in order."""
        return find_scorings(self.scorings)

    def settings_of(self, scoring: type[Scoring]) -> Any:
        if SCORINGS.get(scoring.name) is scoring:
            return getattr(self, scoring.name, scoring.Settings())
        dotted = f"{scoring.__module__}.{scoring.__qualname__}"
        return scoring.Settings.parse(self.custom.get(dotted, {}), dotted)


class ScoreSettings(ScoringGroups):
    """Parameters under `score`."""

    adaptation: Adaptation | None = None
    """Adaptation to embed.adaptation_set: of the centre, or by CORAL of the covariance too; null: none."""
    llr: str = "qmf"
    """Scoring whose log-likelihood ratios the column llr holds."""
    p_targets: tuple[Probability, ...] = Field((0.01, 0.05), min_length=1)
    """Probabilities of a target trial at which decisions are measured."""
    c_miss: float = Field(1.0, gt=0)
    """Cost of a miss."""
    c_fa: float = Field(1.0, gt=0)
    """Cost of a false acceptance."""
    bootstrap_resamples: int = Field(200, ge=0)
    """Resamples of speakers for the interval of the EER; 0: no interval."""
    memory_gigabytes: float = Field(1.0, gt=0)
    """Working memory beside the tables in GB (1e9 bytes)."""
    num_threads: int | None = Field(None, ge=1)
    """Threads that compute scores; null: one for each core."""

    @model_validator(mode="after")
    def _computes_llr(self) -> ScoreSettings:
        if self.llr not in self.chosen:
            raise ValueError(
                f"llr is '{self.llr}': scorings must hold it, and they are {', '.join(self.chosen)}"
            )
        return self

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """Operating points at which decisions are measured."""
        return tuple(OperatingPoint(p_target, self.c_miss, self.c_fa) for p_target in self.p_targets)

    def budget(self, device: str = "cpu") -> ComputeBudget:
        """Memory, threads and device of the scoring."""
        return ComputeBudget(self.memory_gigabytes, self.num_threads, device)


def sets_by_use(embed: EmbedSettings, adaptation: Adaptation | None) -> dict[str, str]:
    """Named sets that scores depend on, beside the trials' own, by their use."""
    if embed.calibration_set is None:
        uses = {"cohort and calibration": embed.cohort_set}
    else:
        uses = {"cohort": embed.cohort_set, "calibration": embed.calibration_set}
    if adaptation is not None and embed.adaptation_set is not None:
        uses["adaptation"] = embed.adaptation_set
    return uses


class ReportSettings(Settings):
    """Parameters under `report`."""

    duration_edges: tuple[float, ...] = Field((2.0, 4.0, 6.0, 8.0, 12.0), min_length=1)
    """Edges in seconds between groups of trials by their shorter side, rising."""
    min_trials: int = Field(30, ge=1)
    """Trials of either class without which a group shows no error rate."""
    worst_trials: int = Field(20, ge=1)
    """Trials of either class that are listed for each trial list."""
    players: int = Field(0, ge=0)
    """Worst trials of either class of each list with sound in the report; 0: no recording is copied."""
    layer_weight_utterances: int = Field(24, ge=0)
    """Utterances of the trials that the weights of the encoder's states are measured on; 0: not measured."""

    @field_validator("duration_edges")
    @classmethod
    def _rise(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if list(edges) != sorted(set(edges)):
            raise ValueError("must rise from one to the next")
        return edges


class CompareRunsSettings(Settings):
    """Parameters under `compare_runs`."""

    runs: tuple[LocalPath, ...] = ()
    """Evaluations to compare: data roots, DATA_ROOT@VERSION for earlier scores, or ids of MLflow runs."""
    scoring: str | None = None
    """Scoring that is compared; null: the one that decides in each evaluation."""
    bootstrap_resamples: int = Field(200, ge=1)
    """Resamples of speakers and seeds for the intervals."""


class MeasureSettings(Settings):
    """Parameters under `measure`."""

    score_file: LocalPath | None = None
    """Text file of scores: `ENROLL_ID TEST_ID SCORE target|nontarget` a line."""
    speakers: LocalPath | None = None
    """File of `UTTERANCE_ID SPEAKER_ID` lines, or a table of utterances; null: read from the ids."""
    calibrated: bool = False
    """Scores are natural log-likelihood ratios, so that decisions are measured too."""

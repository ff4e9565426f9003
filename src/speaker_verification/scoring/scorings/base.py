"""Base class of scorings, and the trials that they score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from speaker_verification.common.settings_base import NumberOrShare, Settings
from speaker_verification.scoring.affine import AffineCalibration
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.cohort import Cohort, Deviation
from speaker_verification.scoring.embeddings import EmbeddingStore

Fitted = Mapping[str, np.ndarray]
Probability = Annotated[float, Field(gt=0, lt=1)]


class SharedSettings(Settings):
    """Parameters under `score` that scorings share."""

    centre: bool = True
    """Subtract the mean of the cohort set's utterances from all embeddings."""
    cohort: Literal["speaker_means", "utterances"] = "speaker_means"
    """Cohort of AS-norm: the mean embedding of each speaker, or all utterances."""
    top_n: NumberOrShare = 600
    """Highest cohort scores in AS-norm: a number from 2 to the cohort's speakers - 2, or a share below 1."""
    deviation: Deviation = "unbiased"
    """Standard deviation of these scores."""
    calibration_trials: int = Field(30_000, ge=2, multiple_of=2)
    """Trials that calibrations are fitted on, half of them target trials."""
    calibration_speakers: Literal["cohort", "validation"] = "cohort"
    """Speakers of these trials: all of their set, or only the validation ones among them."""
    calibration_sessions: Literal["any", "across"] = "any"
    """Target trials among them: any, or only those across sessions, of speakers with several."""
    calibration_prior: Probability = 0.5
    """Share of target trials that calibrations are fitted for."""

    def settings_of(self, scoring: type[Scoring]) -> Any:
        """Parameters of a scoring, of the type `scoring.Settings`; by default its defaults."""
        return scoring.Settings()


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials between utterances of an embedding store, with everything that a scoring may use.

    Attributes:
        store: embeddings of both sides.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        cohort: cohort that embeddings are centred on and scores are normalised against.
        settings: parameters of the scorings.
        budget: memory, threads and device of the computation.
        excluded: (trials, 2) speakers of the cohort left out of each trial's cohort, -1 for one that is not
            in it; None: nobody is.
        scores: (trials,) by name, the scores computed so far: a scoring that builds on another reuses them.
        cohort_directions: function that returns the cohort's directions (S, E), kept from call to call; None:
            they are computed here, within the budget.
    """

    store: EmbeddingStore
    enroll_rows: np.ndarray
    test_rows: np.ndarray
    cohort: Cohort
    settings: SharedSettings
    budget: ComputeBudget = field(default_factory=ComputeBudget)
    excluded: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    cohort_directions: Callable[[], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.enroll_rows)

    def score(self, trials_per_block: int, scores_of: Callable[[slice], np.ndarray]) -> np.ndarray:
        """Scores of all trials, float64 (trials,), computed block by block on several threads."""
        return self.budget.score(len(self), trials_per_block, scores_of)

    def score_pairs(self, scores_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """Scores of all trials from their two embeddings, float64 (trials,), in bounded memory.

        Args:
            scores_of: function from centred embeddings (block, E) of the enrolment and of the test side,
                float64, to the scores (block,) of these trials.
        """
        embeddings, centre = self.store.embeddings, self.cohort.centre

        def of_block(trials: slice) -> np.ndarray:
            sides = (embeddings[rows[trials]] - centre for rows in (self.enroll_rows, self.test_rows))
            return scores_of(*sides)

        bytes_of_trial = 6 * 8 * embeddings.shape[1]  # both sides, and as much twice for what is made of them
        fitting = self.budget.rows_that_fit(bytes_of_trial, share=0.5 / self.budget.threads)
        return self.score(min(fitting, MAX_TRIALS_PER_BLOCK), of_block)

    def scores_by(self, scoring: type[Scoring]) -> np.ndarray:
        """Scores (trials,) of another scoring that learns nothing, computed at most once."""
        if scoring.name not in self.scores:
            self.scores[scoring.name] = scoring().score(self, {})
        return self.scores[scoring.name]


MAX_TRIALS_PER_BLOCK = 16_384


class Scoring(ABC):
    """A way to score trials. The scores table and all results have one column, row or line of each.

    Attributes:
        name: column of the scores table, and name in metrics, tables, figures and files.
        lowest: lowest score that the scoring can give.
        highest: highest score that the scoring can give.
        is_llr: whether scores are calibrated natural log-likelihood ratios already; exported files then hold
            the probability of "same speaker" at even odds.
    """

    Settings: ClassVar[type[Settings]] = Settings

    name: ClassVar[str]
    lowest: ClassVar[float] = -np.inf
    highest: ClassVar[float] = np.inf
    is_llr: ClassVar[bool] = False

    @classmethod
    def check_cohort(cls, settings: SharedSettings, rows_of_speakers: np.ndarray) -> None:
        """Refuse a cohort that does not suffice, before anything is embedded. Any suffices by default.

        Args:
            settings: parameters of the scorings.
            rows_of_speakers: (S,) number of utterances of each cohort speaker.

        Raises:
            ParameterError: a parameter does not fit the cohort.
            DataError: the cohort lacks speakers or utterances.
        """
        return

    def fit(self, cohort_set: EmbeddingStore, trials: Trials, labels: np.ndarray) -> Fitted:
        """Arrays that the scoring learns before it scores; they are saved by name. None by default.

        Args:
            cohort_set: embeddings of the cohort's utterances.
            trials: calibration trials between speakers of the cohort set, or of a calibration set.
            labels: (trials,), 1 target, 0 non-target.

        Raises:
            DataError: the cohort set does not suffice.
        """
        return {}

    @abstractmethod
    def score(self, trials: Trials, fitted: Fitted) -> np.ndarray:
        """Score of each trial, float64 (trials,), higher for "same speaker".

        Args:
            trials: trials to score.
            fitted: arrays that `fit` returned.
        """

    def calibrate(self, scores: np.ndarray, labels: np.ndarray, prior: float) -> AffineCalibration:
        """Map from scores to natural log-likelihood ratios.

        Args:
            scores: (trials,) scores of the calibration trials.
            labels: (trials,), 1 target, 0 non-target.
            prior: probability of a target trial at which the log-likelihood ratios are to be best.

        Raises:
            DataError: all scores are equal.
        """
        if self.is_llr:
            return AffineCalibration(1.0, 0.0)
        return AffineCalibration.fit(scores, labels, prior)

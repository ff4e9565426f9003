"""From embeddings to scores, error rates and decisions."""

from speaker_verification.scoring.affine import AffineCalibration
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.cohort import cohort_statistics
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.extraction import extract_embeddings
from speaker_verification.scoring.metrics import (
    OperatingPoint,
    actual_detection_cost,
    cllr,
    equal_error_rate,
    error_rates,
    min_cllr,
    min_detection_cost,
)
from speaker_verification.scoring.score_files import read_score_file, write_score_file
from speaker_verification.scoring.scorings import SCORINGS, Scoring, Trials
from speaker_verification.scoring.scorings.as_norm import as_norm
from speaker_verification.scoring.scorings.qmf import qmf_features

__all__ = [
    "SCORINGS",
    "AffineCalibration",
    "Calibration",
    "EmbeddingStore",
    "OperatingPoint",
    "Scoring",
    "Trials",
    "actual_detection_cost",
    "as_norm",
    "cllr",
    "cohort_statistics",
    "equal_error_rate",
    "error_rates",
    "extract_embeddings",
    "min_cllr",
    "min_detection_cost",
    "qmf_features",
    "read_score_file",
    "write_score_file",
]

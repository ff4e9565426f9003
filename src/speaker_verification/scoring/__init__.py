"""From embeddings to scores, error rates and decisions."""

from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.extraction import extract_embeddings
from speaker_verification.scoring.metrics import equal_error_rate, error_rates, min_detection_cost
from speaker_verification.scoring.normalisation import as_norm, cohort_statistics
from speaker_verification.scoring.qmf import Calibration, qmf_features

__all__ = [
    "Calibration",
    "EmbeddingStore",
    "as_norm",
    "cohort_statistics",
    "equal_error_rate",
    "error_rates",
    "extract_embeddings",
    "min_detection_cost",
    "qmf_features",
]

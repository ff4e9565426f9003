"""Probabilistic linear discriminant analysis (PLDA), as the two-covariance model.

An embedding is the speaker's mean plus a deviation, both normal: x = mu + y + e, y ~ N(0, B), e ~ N(0, W).
Sources: S. Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006; N. Brümmer, E. de Villiers, "The
Speaker Partitioning Problem", Odyssey 2010 (the two-covariance model and its log-likelihood ratio); D.
Garcia-Romero, C. Espy-Wilson, "Analysis of I-vector Length Normalization", Interspeech 2011.
"""

from __future__ import annotations

import numpy as np

from speaker_verification.common.errors import DataError
from speaker_verification.common.settings_base import Settings
from speaker_verification.scoring.blocks import passing_over
from speaker_verification.scoring.cohort import add_by_speaker, number_speakers
from speaker_verification.scoring.covariance import shrink
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.scorings.base import Fitted, Scoring, SharedSettings, Trials

Covariances = tuple[np.ndarray, np.ndarray]


class PldaSettings(Settings):
    """Parameters under `score.plda`."""

    length_normalise: bool = True
    """Scale centred embeddings to length 1 before the model."""


class Plda(Scoring):
    """Log-likelihood ratio of the two-covariance model, fitted on the cohort's speakers.

    Embeddings are centred as for cosine; crops are not used. With calibration on the validation speakers, the
    model is fitted on the others.
    """

    name = "plda"
    Settings = PldaSettings

    @classmethod
    def check_cohort(cls, settings: SharedSettings, rows_of_speakers: np.ndarray) -> None:
        num_repeated = int((rows_of_speakers >= 2).sum())
        if num_repeated < 2:
            raise DataError(
                f"PLDA cannot be fitted: {num_repeated} of {len(rows_of_speakers)} cohort speakers have two "
                "utterances or more, 2 are needed: take another cohort, or leave plda out of score.scorings"
            )

    def fit(self, cohort_set: EmbeddingStore, trials: Trials, labels: np.ndarray) -> Fitted:
        speaker_ids = cohort_set.utterances["speaker_id"]
        fits = np.ones(len(speaker_ids), dtype=bool)
        if trials.settings.calibration_speakers == "validation":
            fits = ~speaker_ids.isin(trials.store.utterances["speaker_id"]).to_numpy()
        speakers, num_speakers = number_speakers(speaker_ids[fits])
        counts = np.bincount(speakers, minlength=num_speakers)
        self.check_cohort(trials.settings, counts)
        speaker_of_row = np.full(len(fits), -1)
        speaker_of_row[fits] = speakers
        normalise = trials.settings.settings_of(Plda).length_normalise
        width = cohort_set.embeddings.shape[1]
        sums, scatter = np.zeros((num_speakers, width)), np.zeros((width, width))
        rows_per_block = trials.budget.rows_that_fit(4 * 8 * width, share=0.25)
        for rows, block in passing_over(cohort_set.embeddings, rows_per_block):
            inside = fits[rows]
            values = _prepared(block[inside] - trials.cohort.centre, normalise)
            add_by_speaker(sums, speaker_of_row[rows][inside], values)
            scatter += values.T @ values
        mean = sums.sum(axis=0) / counts.sum()
        between, within = estimate_covariances(
            sums - counts[:, None] * mean, scatter - counts.sum() * np.outer(mean, mean), counts
        )
        variances, transform = diagonalise(between, within)
        if not len(variances):
            raise DataError(
                "PLDA cannot be fitted: the cohort's speakers differ no more than utterances of one speaker "
                "do: train the model, or leave plda out of score.scorings"
            )
        return {
            "mean": mean,
            "transform": transform,
            "variances": variances,
            "length_normalise": np.array(normalise),
        }

    def score(self, trials: Trials, fitted: Fitted) -> np.ndarray:
        def project(side: np.ndarray) -> np.ndarray:
            return (_prepared(side, bool(fitted["length_normalise"])) - fitted["mean"]) @ fitted["transform"]

        return trials.score_pairs(
            lambda enroll, test: log_likelihood_ratios(project(enroll), project(test), fitted["variances"])
        )


def _prepared(centred: np.ndarray, normalise: bool) -> np.ndarray:
    """Centred embeddings (N, E) at length 1, or as they are; one at the centre stays there."""
    if not normalise:
        return centred
    lengths = np.sqrt(np.einsum("ne,ne->n", centred, centred))
    return centred / np.maximum(lengths, np.finfo(np.float64).tiny)[:, None]


def estimate_covariances(sums: np.ndarray, scatter: np.ndarray, counts: np.ndarray) -> Covariances:
    """Covariances B between and W within speakers (E, E) by moments: mean squares of a one-way layout.

    E[within scatter] = (N - S) W, E[between scatter] = (S - 1) W + (N - sum n^2 / N) B. W is shrunk towards
    a multiple of the identity (oracle approximating shrinkage), so that it can be inverted where utterances
    are few. B may have negative eigenvalues; `diagonalise` leaves them out.

    Source: S. R. Searle et al., "Variance Components", 1992, section 3.6.

    Args:
        sums: (S, E) sum over the embeddings of each speaker, the mean over all utterances subtracted.
        scatter: (E, E) sum of outer products of all embeddings with themselves, likewise centred.
        counts: (S,) number of utterances of each speaker, N in sum.

    Returns:
        between: B.
        within: W, invertible.

    Raises:
        DataError: the embeddings of each speaker are equal.
    """
    num_rows, num_speakers = int(counts.sum()), len(counts)
    between_scatter = (sums / counts[:, None]).T @ sums
    degrees = num_rows - num_speakers
    within = (scatter - between_scatter) / degrees
    if not np.trace(within) > 0:
        raise DataError(
            "PLDA cannot be fitted: utterances of one speaker have equal embeddings: take other recordings, "
            "or leave plda out of score.scorings"
        )
    within = shrink(within, degrees)
    effective_count = num_rows - (counts.astype(np.float64) ** 2).sum() / num_rows
    return (between_scatter - (num_speakers - 1) * within) / effective_count, within


def diagonalise(between: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transform under which W is the identity and B diagonal, without directions that tell no speakers apart.

    Returns:
        variances: (K,) positive eigenvalues of B relative to W, at most E.
        transform: (E, K), applied as x @ transform.
    """
    from scipy.linalg import eigh

    variances, vectors = eigh(between, within)
    kept = variances > 0
    return variances[kept], vectors[:, kept]


def log_likelihood_ratios(enroll: np.ndarray, test: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Log-likelihood ratio of each pair under the two-covariance model in diagonal form, float64 (pairs,).

    With psi the variance between speakers, 1 that within them, the pair (a, b) has in each direction
    log N(a, b; 0, [[psi + 1, psi], [psi, psi + 1]]) - log N(a; 0, psi + 1) - log N(b; 0, psi + 1).

    Args:
        enroll: (pairs, K) embeddings after the transform.
        test: (pairs, K) embeddings after the transform.
        variances: (K,) psi.
    """
    determinant, total = 2 * variances + 1, variances + 1
    square_weights = variances**2 / (determinant * total) / 2
    offset = (np.log(total) - np.log(determinant) / 2).sum()
    products = np.einsum("pk,pk,k->p", enroll, test, variances / determinant)
    return offset + products - (enroll**2 + test**2) @ square_weights

"""Adaptation of a cohort to another domain by unlabelled recordings: centre, and covariance by CORAL.

Sources: B. Sun, J. Feng, K. Saenko, "Return of Frustratingly Easy Domain Adaptation", AAAI 2016, algorithm 1
(correlation alignment, CORAL); M. J. Alam, G. Bhattacharya, P. Kenny, "Speaker Verification in Mismatched
Conditions with Frustratingly Easy Domain Adaptation", Odyssey 2018 (of speaker embeddings, before PLDA).
Aligned embeddings serve every scoring; CORAL+ (K. A. Lee et al., ICASSP 2019) adapts those of PLDA alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.blocks import passing_over
from speaker_verification.scoring.covariance import power, shrink
from speaker_verification.scoring.embeddings import EmbeddingStore

Adaptation = Literal["centre", "coral"]

ROWS_PER_BLOCK = 16_384


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the embeddings of a domain.

    Attributes:
        mean: (E,).
        covariance: (E, E), shrunk so that it can be inverted.
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, store: EmbeddingStore) -> Moments:
        """Moments over the utterances of a store, in one pass.

        Raises:
            DataError: the embeddings are all equal, or there are fewer than two.
        """
        num_rows, width = store.embeddings.shape
        total, scatter = np.zeros(width), np.zeros((width, width))
        origin = store.embeddings[:1].astype(np.float64)  # so that the sums of products keep their digits
        for _, block in passing_over(store.embeddings, ROWS_PER_BLOCK):
            values = block - origin
            total += values.sum(axis=0)
            scatter += values.T @ values
        if not np.trace(scatter) > 0:
            raise DataError(
                f"{num_rows} utterances without two different embeddings have no covariance: adapt with more "
                "recordings"
            )
        mean = total / num_rows
        covariance = (scatter - num_rows * np.outer(mean, mean)) / (num_rows - 1)
        return cls(mean + origin[0], shrink(covariance, num_rows))


def adapt(store: EmbeddingStore, domain: EmbeddingStore, adaptation: Adaptation) -> EmbeddingStore:
    """Store with embeddings as they would be in another domain, a float32 copy.

    An embedding x of a store with mean m and covariance C becomes (x - m) A + m', where m' and C' are those
    of the domain. "coral" takes C^(-1/2) C'^(1/2) for A, so that A^T C A = C'; "centre" takes the identity.
    Centre, cohort, calibration trials and PLDA are made of these embeddings, while those of the trials stay
    as they are. Speakers of the domain need not be known.

    Args:
        store: embeddings of a cohort or calibration set, each of which is adapted by its own moments.
        domain: embeddings of unlabelled recordings, by the same model.
        adaptation: whether the mean alone is moved, or the covariance too.

    Raises:
        DataError: the embeddings are of two models, or a set has no covariance.
    """
    store.refuse_other_model(domain)
    here, there = Moments.of(store), Moments.of(domain)
    adapted = np.empty(store.embeddings.shape, np.float32)
    if adaptation == "coral":
        transform = power(here.covariance, -0.5) @ power(there.covariance, 0.5)  # (E, E)
    else:
        transform = np.eye(len(here.mean))
    for rows, block in passing_over(store.embeddings, ROWS_PER_BLOCK):
        adapted[rows] = (block - here.mean) @ transform + there.mean
    return replace(store, embeddings=adapted, crops=None)

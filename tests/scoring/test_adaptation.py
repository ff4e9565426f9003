from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import oas

from speaker_verification.common.errors import DataError
from speaker_verification.scoring import EmbeddingStore
from speaker_verification.scoring.adaptation import Moments, adapt

MakeStore = Callable[..., EmbeddingStore]


def store_of(points: list[tuple[float, float]], mean: tuple[float, float], times: int) -> EmbeddingStore:
    """Each point `times` times about a mean, so often that shrinkage does not matter."""
    embeddings = np.tile(np.array(points, np.float32) + np.float32(mean), (times, 1))
    ids = [f"u{row}" for row in range(len(embeddings))]
    return EmbeddingStore(embeddings, pd.DataFrame({"utterance_id": ids, "speaker_id": "s"}))


# Covariances [[5, 4], [4, 5]] and diag(2, 8).
SOURCE = [(3.0, 3.0), (-3.0, -3.0), (1.0, -1.0), (-1.0, 1.0)]
DOMAIN = [(2.0, 0.0), (-2.0, 0.0), (0.0, 4.0), (0.0, -4.0)]


def test_coral_whitens_by_one_covariance_and_colours_by_the_other() -> None:
    store = store_of(SOURCE, (10.0, -7.0), 20_000)
    adapted = adapt(store, store_of(DOMAIN, (1.0, 2.0), 20_000), "coral")
    # A = [[2, -1], [-1, 2]] / 3 @ diag(1, 2) sqrt(2), so (3, 3) A = sqrt(2) (1, 2)
    expected = np.sqrt(2) * np.array([(1, 2), (-1, -2), (1, -2), (-1, 2)]) + (1, 2)
    np.testing.assert_allclose(adapted.embeddings[:4], expected, atol=2e-3)
    assert adapted.embeddings.dtype == np.float32
    assert adapted.utterances is store.utterances


def test_centre_moves_the_mean_alone() -> None:
    store = store_of(SOURCE, (10.0, -7.0), 2)
    adapted = adapt(store, store_of(DOMAIN, (1.0, 2.0), 3), "centre")
    np.testing.assert_allclose(adapted.embeddings[:4], np.add(SOURCE, (1, 2)), atol=1e-6)


def test_adapted_embeddings_have_the_moments_of_a_domain_with_fewer_recordings_than_dimensions(
    make_store: MakeStore,
) -> None:
    rng = np.random.default_rng(0)
    store, domain = make_store([40] * 50, width=8), make_store([1] * 6, width=8, seed=5)
    skewed = replace(domain, embeddings=(domain.embeddings @ rng.normal(size=(8, 8)) + 3).astype(np.float32))
    covariance, _ = oas(skewed.embeddings.astype(np.float64))  # with a divisor of 6
    np.testing.assert_allclose(Moments.of(skewed).covariance, covariance * 6 / 5, rtol=1e-6)
    adapted = adapt(store, skewed, "coral").embeddings.astype(np.float64)
    np.testing.assert_allclose(adapted.mean(axis=0), skewed.embeddings.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(np.cov(adapted.T), covariance * 6 / 5, atol=0.01 * np.trace(covariance))


def test_sets_without_a_covariance_or_of_another_model_are_refused(make_store: MakeStore) -> None:
    store = replace(make_store([4, 4]), model="one")
    with pytest.raises(DataError, match="of two models"):
        adapt(store, replace(make_store([4, 4]), model="another"), "coral")
    with pytest.raises(DataError, match="1 utterances without two different embeddings"):
        adapt(store, store.at(np.array([0])), "coral")
    with pytest.raises(DataError, match="of 8 and of 9 numbers"):
        adapt(store, make_store([4, 4], width=store.embeddings.shape[1] + 1), "centre")

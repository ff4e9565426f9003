"""The two-covariance model, beside SciPy's normal densities and known covariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from speaker_verification.common.errors import DataError
from speaker_verification.scoring import EmbeddingStore, Trials, equal_error_rate
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.covariance import shrink
from speaker_verification.scoring.evaluation import trials_between_drawn
from speaker_verification.scoring.scorings.plda import (
    Plda,
    diagonalise,
    estimate_covariances,
    log_likelihood_ratios,
)
from speaker_verification.scoring.settings import ScoreSettings

MakeStore = Callable[..., EmbeddingStore]


def covariance(width: int, seed: int, rank: int | None = None) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(width, rank or width + 3))
    return factor @ factor.T / width


def by_densities(enroll: np.ndarray, test: np.ndarray, between: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Log-likelihood ratios of centred pairs from the joint normal densities of both hypotheses."""
    total = between + within
    same = np.block([[total, between], [between, total]])
    pairs = np.concatenate([enroll, test], axis=1)
    alone = multivariate_normal(np.zeros(len(total)), total)
    joint = multivariate_normal(np.zeros(2 * len(total)), same).logpdf(pairs)
    return joint - alone.logpdf(enroll) - alone.logpdf(test)


@pytest.mark.parametrize("rank", [None, 2], ids=["full", "low rank"])
def test_ratios_are_those_of_the_joint_normal_densities(rank: int | None) -> None:
    between, within = covariance(5, seed=1, rank=rank), covariance(5, seed=2)
    variances, transform = diagonalise(between, within)
    enroll, test = np.random.default_rng(3).normal(scale=2.0, size=(2, 40, 5))
    ratios = log_likelihood_ratios(enroll @ transform, test @ transform, variances)
    np.testing.assert_allclose(ratios, by_densities(enroll, test, between, within), rtol=1e-9, atol=1e-9)


def test_covariances_of_a_synthetic_cohort_are_recovered_whatever_the_counts() -> None:
    between, within = covariance(4, seed=5), covariance(4, seed=6)
    rng = np.random.default_rng(7)
    counts = rng.integers(1, 9, 20_000)
    speakers = np.repeat(np.arange(len(counts)), counts)
    means = rng.multivariate_normal(np.zeros(4), between, len(counts))
    rows = means[speakers] + rng.multivariate_normal(np.zeros(4), within, len(speakers))
    rows -= rows.mean(axis=0)
    sums = np.stack([np.bincount(speakers, column) for column in rows.T], axis=1)
    found_between, found_within = estimate_covariances(sums, rows.T @ rows, counts)
    np.testing.assert_allclose(found_between, between, atol=0.05)
    np.testing.assert_allclose(found_within, within, atol=0.05)


def trials_of(store: EmbeddingStore, settings: ScoreSettings, num_trials: int = 200) -> tuple[Trials, Any]:
    drawn = draw_calibration_trials(store.utterances["speaker_id"], num_trials, seed=1)
    cohort = Cohort.of(store, settings.cohort, settings.centre)
    return trials_between_drawn(store, cohort, drawn, settings), drawn.labels


@pytest.mark.parametrize("length_normalise", [False, True])
@pytest.mark.parametrize("centre", [False, True])
def test_scores_of_a_store_are_the_models_ratios_one_trial_at_a_time(
    make_store: MakeStore, length_normalise: bool, centre: bool
) -> None:
    store = make_store([4] * 30 + [1, 2, 7])
    settings = ScoreSettings.parse(
        {"centre": centre, "plda": {"length_normalise": length_normalise}}, "score"
    )
    trials, labels = trials_of(store, settings)
    fitted = Plda().fit(store, trials, labels)
    scores = Plda().score(trials, fitted)

    rows = store.embeddings.astype(np.float64)
    rows = rows - rows.mean(axis=0) if centre else rows
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if length_normalise else rows
    rows = rows - rows.mean(axis=0)
    speakers = store.utterances["speaker_id"].to_numpy()
    means = np.stack([rows[speakers == name].mean(axis=0) for name in speakers])
    names, counts = np.unique(speakers, return_counts=True)
    residual = rows - means
    degrees = len(rows) - len(names)
    within = shrink(residual.T @ residual / degrees, degrees)
    effective = len(rows) - (counts**2).sum() / len(rows)
    between = (means.T @ means - (len(names) - 1) * within) / effective
    values, vectors = np.linalg.eig(np.linalg.solve(within, between))
    # Eigenvalues below 0 are set to 0: B = W V diag(values) V^-1.
    between = within @ (vectors * np.maximum(values.real, 0)) @ np.linalg.inv(vectors)
    ids = store.utterances["utterance_id"].tolist()
    used = [ids.index(name) for name in trials.store.utterances["utterance_id"]]
    sides = rows[used][trials.enroll_rows], rows[used][trials.test_rows]
    expected = by_densities(*sides, (between + between.T).real / 2, within)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)


def test_ratios_are_symmetric_and_do_not_depend_on_memory(make_store: MakeStore) -> None:
    store = make_store([5] * 20)
    trials, labels = trials_of(store, ScoreSettings())
    fitted = Plda().fit(store, trials, labels)
    scores = Plda().score(trials, fitted)
    swapped = replace(trials, enroll_rows=trials.test_rows, test_rows=trials.enroll_rows, scores={})
    np.testing.assert_allclose(Plda().score(swapped, fitted), scores, rtol=1e-12, atol=1e-12)
    small = replace(trials, budget=ComputeBudget(memory_gigabytes=1e-9), scores={})
    again = Plda().fit(store, small, labels)
    for name, value in fitted.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(Plda().score(small, fitted), scores, rtol=1e-12, atol=1e-12)


def test_more_dimensions_than_utterances_still_tell_speakers_apart(make_store: MakeStore) -> None:
    store = make_store([2] * 20, width=64)
    trials, labels = trials_of(store, ScoreSettings())
    fitted = Plda().fit(store, trials, labels)
    scores = Plda().score(trials, fitted)
    assert np.isfinite(scores).all()
    assert equal_error_rate(scores, labels)[0] < 10


def test_validation_speakers_are_left_out_of_the_model_that_they_calibrate(make_store: MakeStore) -> None:
    store = make_store([4] * 12)
    speakers = store.utterances["speaker_id"]
    held_out = speakers.isin(["id003", "id007"]).to_numpy()
    rows = np.flatnonzero(held_out)
    drawn = draw_calibration_trials(speakers.iloc[rows], 40, seed=1)
    drawn = replace(drawn, enroll_rows=rows[drawn.enroll_rows], test_rows=rows[drawn.test_rows])
    settings = ScoreSettings(calibration_speakers="validation")
    trials = trials_between_drawn(store, Cohort.of(store, "speaker_means", True), drawn, settings)
    fitted = Plda().fit(store, trials, drawn.labels)
    others = EmbeddingStore(store.embeddings[~held_out], store.utterances[~held_out])
    alone = Plda().fit(others, replace(trials, settings=ScoreSettings()), drawn.labels)
    np.testing.assert_allclose(fitted["variances"], alone["variances"], rtol=1e-9)


@pytest.mark.parametrize(("counts", "repeated"), [([1, 1, 3], 1), ([1, 1, 1, 1], 0)])
def test_cohort_without_two_repeated_speakers_is_refused(
    make_store: MakeStore, counts: list[int], repeated: int
) -> None:
    store = make_store(counts)
    rows = np.arange(len(store.utterances))
    cohort = Cohort.of(store, "speaker_means", True)
    trials = Trials(store, rows, rows, cohort, ScoreSettings())
    for refuse in (
        lambda: Plda.check_cohort(ScoreSettings(), np.array(counts)),
        lambda: Plda().fit(store, trials, rows),
    ):
        with pytest.raises(
            DataError, match=rf"{repeated} of {len(counts)} cohort speakers .*score\.scorings"
        ):
            refuse()


def test_equal_utterances_of_each_speaker_are_refused(make_store: MakeStore) -> None:
    store = make_store([3] * 8)
    codes = pd.factorize(store.utterances["speaker_id"])[0]
    equal = EmbeddingStore(np.eye(8, dtype=np.float32)[codes], store.utterances)
    trials, labels = trials_of(equal, ScoreSettings(top_n=2))
    with pytest.raises(DataError, match="equal embeddings"):
        Plda().fit(equal, trials, labels)

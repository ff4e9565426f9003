from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring import EmbeddingStore, Trials, qmf_features
from speaker_verification.scoring.calibration_trials import CalibrationTrials, draw_calibration_trials
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.evaluation import trials_between_drawn
from speaker_verification.scoring.scorings.as_norm import AsNorm
from speaker_verification.scoring.scorings.cosine import Cosine
from speaker_verification.scoring.scorings.qmf import (
    FEATURE_NAMES,
    Qmf,
    fit_logistic_regression,
    quality_features,
)
from speaker_verification.scoring.settings import ScoreSettings
from tests.support import reference
from tests.support.reference import ReferenceCohort

MakeStore = Callable[..., EmbeddingStore]


def test_nine_features_by_hand_in_their_order() -> None:
    # (3, -4): L1 7, L2 5, mean -0.5 and deviation 3.5. (0, 2): L1 2, L2 2, mean 1 and deviation 1.
    quality = quality_features(np.array([[3.0, -4.0], [0.0, 2.0]]), [math.e, 1.0])
    features = qmf_features([1.25], quality[[0]], quality[[1]])
    np.testing.assert_allclose(features, [[1.25, 1.0, 0.0, 7.0, 5.0, 2.0, 2.0, 3.5, 1.0]])


def drawn_trials(
    store: EmbeddingStore, num_trials: int, settings: ScoreSettings
) -> tuple[CalibrationTrials, Trials]:
    drawn = draw_calibration_trials(store.utterances["speaker_id"], num_trials, seed=4)
    cohort = Cohort.of(store, settings.cohort, settings.centre)
    return drawn, trials_between_drawn(store, cohort, drawn, settings)


@pytest.mark.parametrize(
    "settings",
    [
        ScoreSettings(top_n=5),
        ScoreSettings(centre=False, cohort="utterances", deviation="biased", top_n=11),
    ],
)
def test_calibration_features_equal_one_trial_at_a_time(
    make_store: MakeStore, settings: ScoreSettings
) -> None:
    store = make_store([3, 1, 4, 2, 5, 2, 3])
    drawn, trials = drawn_trials(store, 60, settings)
    raw, speakers = store.embeddings, store.utterances["speaker_id"].tolist()
    seconds = store.utterances["duration_seconds"].tolist()
    plain = ReferenceCohort.of(raw, speakers, settings.cohort, settings.centre)
    expected = []
    for e, t in zip(drawn.enroll_rows, drawn.test_rows, strict=True):
        others = plain.without([speakers[e], speakers[t]])
        biased = settings.deviation == "biased"
        score = reference.as_norm(raw[e], raw[t], others, settings.top_n, biased)
        expected.append(reference.nine_features(score, raw[e], raw[t], seconds[e], seconds[t]))
    expected_features = np.array(expected)
    np.testing.assert_allclose(trials.scores_by(AsNorm), expected_features[:, 0], rtol=1e-5, atol=1e-5)
    weights = np.arange(1, 10) / 10
    fitted = {"coefficients": weights, "intercept": np.array(-1.0), "feature_names": np.array(FEATURE_NAMES)}
    scores = Qmf().score(trials, fitted)
    np.testing.assert_allclose(scores, expected_features @ weights - 1, rtol=1e-5, atol=1e-5)
    sides = zip(raw[drawn.enroll_rows] - plain.centre, raw[drawn.test_rows] - plain.centre, strict=True)
    expected_cosine = [reference.cosine(*both) for both in sides]
    np.testing.assert_allclose(trials.scores_by(Cosine), expected_cosine, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "top_n", "message"),
    [
        ("speaker_means", 6, r"is 6, but the cohort has 7 speakers, 2 of them left out .* take 2 to 5"),
        ("utterances", 12, r"is 12, but the cohort has 20 utterances, 9 of them left out .* take 2 to 11"),
    ],
)
def test_a_cohort_too_small_without_a_trial_s_speakers_is_refused(
    make_store: MakeStore, kind: Literal["speaker_means", "utterances"], top_n: int, message: str
) -> None:
    store = make_store([3, 1, 4, 2, 5, 2, 3])
    settings = ScoreSettings(cohort=kind, top_n=top_n)
    drawn, trials = drawn_trials(store, 10, settings)
    counts = store.utterances["speaker_id"].value_counts().to_numpy()
    for refuse in (
        lambda: Qmf().fit(store, trials, drawn.labels),
        lambda: Qmf.check_cohort(settings, counts),
    ):
        with pytest.raises(ParameterError, match=message):
            refuse()


def test_fit_is_the_least_of_the_regularised_logistic_loss() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 200)
    features = rng.normal(size=(400, 9)) + 0.8 * labels[:, None] * np.arange(9) / 9
    coefficients, intercept = fit_logistic_regression(features, labels)
    weights = np.array([*coefficients, intercept])
    inputs = np.column_stack([features, np.ones(400)])  # liblinear shrinks the intercept too
    signs = 2 * labels - 1
    residual = signs / (1 + np.exp(signs * (inputs @ weights)))
    gradient = weights - inputs.T @ residual  # of |w|^2 / 2 + C sum log(1 + exp(-y w x)), C = 1
    assert np.abs(gradient).max() < 0.05  # of terms that sum to some hundreds: liblinear stops at a tolerance
    assert np.abs(inputs.T @ (signs / 2)).max() > 50  # the gradient at 0, for scale


def test_features_of_another_version_are_refused(make_store: MakeStore) -> None:
    store = make_store([3, 3, 3, 3])
    drawn, trials = drawn_trials(store, 40, ScoreSettings(top_n=2))
    fitted = dict(Qmf().fit(store, trials, drawn.labels))
    assert np.isfinite(Qmf().score(trials, fitted)).all()
    with pytest.raises(DataError, match="score pipeline"):
        Qmf().score(trials, {**fitted, "feature_names": np.array(["as_norm"])})


def test_fitting_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fit_logistic_regression(np.random.default_rng(0).normal(size=(40, 9)), np.repeat([1, 0], 20))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

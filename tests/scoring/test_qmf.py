from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring import EmbeddingStore, QmfCalibration, qmf, qmf_features
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.normalisation import Cohort
from speaker_verification.scoring.qmf import (
    calibrated_ratios,
    calibration_features,
    draw_calibration_trials,
    fit_qmf_calibration,
    probability,
    quality_measures,
)
from speaker_verification.scoring.settings import ScoreSettings
from tests.support import reference
from tests.support.reference import ReferenceCohort

MakeStore = Callable[..., EmbeddingStore]


def test_nine_features_by_hand_in_their_order() -> None:
    # (3, -4): L1 7, L2 5, mean -0.5 and deviation 3.5. (0, 2): L1 2, L2 2, mean 1 and deviation 1.
    quality = quality_measures(np.array([[3.0, -4.0], [0.0, 2.0]]), [math.e, 1.0])
    features = qmf_features([1.25], quality[[0]], quality[[1]])
    np.testing.assert_allclose(features, [[1.25, 1.0, 0.0, 7.0, 5.0, 2.0, 2.0, 3.5, 1.0]])


def test_half_of_the_calibration_trials_are_two_utterances_of_one_speaker(make_store: MakeStore) -> None:
    speakers = make_store([1, 2, 5, 1, 3]).utterances["speaker_id"]
    trials = draw_calibration_trials(speakers, 4000, seed=0)
    enroll, test = speakers[trials.enroll_rows].to_numpy(), speakers[trials.test_rows].to_numpy()
    target = trials.labels == 1
    assert target.sum() == 2000
    assert (enroll[target] == test[target]).all()
    assert (trials.enroll_rows[target] != trials.test_rows[target]).all()
    assert (enroll[~target] != test[~target]).all()


def test_speakers_are_drawn_evenly_whatever_their_number_of_utterances(make_store: MakeStore) -> None:
    speakers = make_store([1, 2, 20, 1, 3]).utterances["speaker_id"]
    trials = draw_calibration_trials(speakers, 60_000, seed=0)
    target = trials.labels == 1
    of_targets = Counter(speakers[trials.enroll_rows[target]])
    assert set(of_targets) == {"id001", "id002", "id004"}  # the others have one utterance
    assert all(abs(count - 10_000) < 400 for count in of_targets.values())  # five deviations of 82
    for rows in (trials.enroll_rows, trials.test_rows):
        of_nontargets = Counter(speakers[rows[~target]])
        assert len(of_nontargets) == 5
        assert all(abs(count - 6_000) < 350 for count in of_nontargets.values())  # five deviations of 69
    pairs = Counter(zip(trials.enroll_rows[target], trials.test_rows[target], strict=True))
    assert len(pairs) == 2 * 1 + 20 * 19 + 3 * 2  # every ordered pair of two utterances comes


def test_drawing_repeats_with_its_seed(make_store: MakeStore) -> None:
    speakers = make_store([4, 4, 4]).utterances["speaker_id"]
    one, same, other = (draw_calibration_trials(speakers, 50, seed).test_rows for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("speakers", [["a", "a", "a"], ["a", "b", "c"]])
def test_corpus_without_both_kinds_of_trials_is_refused(speakers: list[str]) -> None:
    with pytest.raises(DataError, match="calibration needs two speakers and one with two utterances"):
        draw_calibration_trials(pd.Series(speakers), 10, seed=0)


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
    trials = draw_calibration_trials(store.utterances["speaker_id"], 60, seed=4)
    cohort = Cohort.of(store, settings.cohort, settings.centre)
    cosine, features = calibration_features(store, trials, cohort, settings)
    raw, speakers = store.embeddings, store.utterances["speaker_id"].tolist()
    seconds = store.utterances["duration_seconds"].tolist()
    plain = ReferenceCohort.of(raw, speakers, settings.cohort, settings.centre)
    expected = []
    for e, t in zip(trials.enroll_rows, trials.test_rows, strict=True):
        others = plain.without([speakers[e], speakers[t]])
        biased = settings.deviation == "biased"
        score = reference.as_norm(raw[e], raw[t], others, settings.top_n, biased)
        expected.append(reference.nine_features(score, raw[e], raw[t], seconds[e], seconds[t]))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    sides = zip(raw[trials.enroll_rows] - plain.centre, raw[trials.test_rows] - plain.centre, strict=True)
    np.testing.assert_allclose(cosine, [reference.cosine(*both) for both in sides], rtol=1e-9, atol=1e-12)


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
    trials = draw_calibration_trials(store.utterances["speaker_id"], 10, seed=0)
    settings = ScoreSettings(cohort=kind, top_n=top_n)
    with pytest.raises(ParameterError, match=message):
        calibration_features(store, trials, Cohort.of(store, kind, True), settings)


def test_ratios_of_trials_in_blocks_are_those_of_their_features(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmf, "_TRIALS_PER_BLOCK", 2)
    store = make_store([3, 2])
    quality = quality_measures(store.embeddings, store.utterances["duration_seconds"])
    calibration = QmfCalibration(tuple(np.arange(9) / 10), -1.0)
    scores, enroll, test = np.arange(5.0), np.array([0, 1, 2, 3, 4]), np.array([4, 4, 1, 0, 2])
    ratios = calibrated_ratios(calibration, scores, quality, enroll, test, ComputeBudget())
    expected = calibration.log_likelihood_ratio(qmf_features(scores, quality[enroll], quality[test]))
    np.testing.assert_allclose(ratios, expected)


def test_fit_is_the_least_of_the_regularised_logistic_loss() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 200)
    features = rng.normal(size=(400, 9)) + 0.8 * labels[:, None] * np.arange(9) / 9
    fitted = fit_qmf_calibration(features, labels)
    weights = np.array([*fitted.coefficients, fitted.intercept])
    inputs = np.column_stack([features, np.ones(400)])  # liblinear shrinks the intercept too
    signs = 2 * labels - 1
    residual = signs / (1 + np.exp(signs * (inputs @ weights)))
    gradient = weights - inputs.T @ residual  # of |w|^2 / 2 + C sum log(1 + exp(-y w x)), C = 1
    assert np.abs(gradient).max() < 0.05  # of terms that sum to some hundreds: liblinear stops at a tolerance
    assert np.abs(inputs.T @ (signs / 2)).max() > 50  # the gradient at 0, for scale


def test_probability_is_the_logistic_of_the_log_likelihood_ratio() -> None:
    calibration = QmfCalibration(tuple(range(9)), -1.0)
    features = np.stack([np.zeros(9), np.full(9, 0.1), np.full(9, 50.0)])
    # 0.1 * (0 + ... + 8) - 1 = 2.6; 50 * 36 - 1 = 1799, where the probability rounds to 1
    np.testing.assert_allclose(calibration.log_likelihood_ratio(features), [-1.0, 2.6, 1799.0])
    expected = [1 / (1 + math.exp(1)), 1 / (1 + math.exp(-2.6)), 1.0]
    np.testing.assert_allclose(probability(calibration.log_likelihood_ratio(features)), expected)


def test_calibration_survives_json_and_refuses_other_features() -> None:
    calibration = fit_qmf_calibration(np.random.default_rng(0).normal(size=(40, 9)), np.repeat([1, 0], 20))
    values = json.loads(json.dumps(asdict(calibration)))
    assert QmfCalibration.from_dict(values) == calibration
    with pytest.raises(DataError, match="fit it anew"):
        QmfCalibration.from_dict({**values, "feature_names": ["score"]})


def test_fitting_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fit_qmf_calibration(np.random.default_rng(0).normal(size=(40, 9)), np.repeat([1, 0], 20))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

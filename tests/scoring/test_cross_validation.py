"""Cross-validation by speaker: nothing that scores a trial has seen its speakers."""

from __future__ import annotations

import numpy as np
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring.affine import AffineCalibration
from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.scoring.cross_validation import cross_validate, draw_folds, fewest_fitted
from speaker_verification.scoring.settings import ScoreSettings
from tests.support.stores import make_store

SETTINGS = ScoreSettings(scorings=("cosine", "as_norm", "qmf"), top_n=5, calibration_trials=400)


def cosines(embeddings: np.ndarray, centre: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    directions = embeddings - centre
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (directions[one] * directions[other]).sum(axis=1)


def test_trials_are_scored_and_calibrated_by_the_other_speakers() -> None:
    store = make_store([4, 3, 5, 2, 4, 1, 6, 3, 2, 4, 3, 2])
    left_out = cross_validate(store, SETTINGS, seed=3)
    folds = draw_folds(store.utterances, seed=3)
    embeddings = store.embeddings.astype(np.float64)
    enroll, test = (store.rows_of(left_out.trials[side]) for side in ("enroll_id", "test_id"))
    np.testing.assert_array_equal(folds[enroll], folds[test])
    assert set(folds[enroll]) == set(range(5))
    for fold in range(5):
        others = np.flatnonzero(folds != fold)
        centre = embeddings[others].mean(axis=0)
        inside = folds[enroll] == fold
        scores = cosines(embeddings, centre, enroll[inside], test[inside])
        np.testing.assert_allclose(left_out.scores["cosine"][inside], scores, atol=1e-6)
        drawn = draw_calibration_trials(store.utterances["speaker_id"].iloc[others], 400, seed=3)
        calibrating = cosines(embeddings[others], centre, drawn.enroll_rows, drawn.test_rows)
        affine = AffineCalibration.fit(calibrating, drawn.labels)
        np.testing.assert_allclose(
            left_out.llrs["cosine"][inside], affine.log_likelihood_ratio(scores), atol=1e-4
        )


def test_all_pairs_of_a_small_fold_are_trials_once() -> None:
    store = make_store([3] * 12)
    left_out = cross_validate(store, SETTINGS.model_copy(update={"calibration_trials": 2000}), seed=0)
    speakers = store.utterances["speaker_id"].to_numpy()
    folds = draw_folds(store.utterances, seed=0)
    one, other = np.triu_indices(len(folds), k=1)
    inside = folds[one] == folds[other]
    expected = {frozenset(pair) for pair in zip(one[inside], other[inside], strict=True)}
    rows = [store.rows_of(left_out.trials[side]) for side in ("enroll_id", "test_id")]
    pairs = [frozenset(pair) for pair in zip(*rows, strict=True)]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    np.testing.assert_array_equal(left_out.trials["label"] == 1, speakers[rows[0]] == speakers[rows[1]])


def test_folds_share_out_speakers_and_those_with_target_trials() -> None:
    counts = [1] * 13 + [2] * 11
    utterances = make_store(counts).utterances
    folds = draw_folds(utterances, seed=1)
    by_fold = utterances.groupby(folds)["speaker_id"]
    assert sorted(by_fold.nunique()) == [4, 5, 5, 5, 5]
    repeated = set(utterances["speaker_id"].value_counts().loc[lambda counts: counts > 1].index)
    assert sorted(len(repeated & set(names)) for _, names in by_fold) == [2, 2, 2, 2, 3]
    assert utterances.groupby("speaker_id")["utterance_id"].size().sum() == len(folds)
    assert (utterances.assign(fold=folds).groupby("speaker_id")["fold"].nunique() == 1).all()
    assert fewest_fitted(utterances["speaker_id"]) == 19
    assert (draw_folds(utterances, seed=2) != folds).any()


def test_too_few_speakers_with_target_trials_are_refused() -> None:
    with pytest.raises(DataError, match=r"30 speakers, 9 of them with two recordings .* 10 such speakers"):
        draw_folds(make_store([1] * 21 + [2] * 9).utterances, seed=0)
    utterances = make_store([3] * 12).utterances  # all of one session
    with pytest.raises(
        DataError, match=r"12 speakers, 0 of them with two sessions .* leave the sessions out"
    ):
        draw_folds(utterances, seed=0, across_sessions=True)


def test_a_cohort_that_the_folds_do_not_leave_is_refused() -> None:
    settings = SETTINGS.model_copy(update={"top_n": 9})
    with pytest.raises(ParameterError, match=r"score\.top_n' is 9, .* 9 speakers, .* take 2 to 7"):
        cross_validate(make_store([3] * 12), settings, seed=0)

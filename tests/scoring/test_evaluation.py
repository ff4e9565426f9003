"""Scorings and calibrations fitted on a cohort set, and on a calibration set beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from speaker_verification.scoring import EmbeddingStore
from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.scoring.cohort import Cohort, numbers_in_cohort
from speaker_verification.scoring.evaluation import fit_scorings, trials_between_drawn
from speaker_verification.scoring.scorings.as_norm import AsNorm
from speaker_verification.scoring.settings import ScoreSettings
from tests.support import reference
from tests.support.reference import ReferenceCohort

MakeStore = Callable[..., EmbeddingStore]
SETTINGS = ScoreSettings(top_n=5)


def test_speakers_have_their_number_in_the_cohort_or_none() -> None:
    cohort = pd.Series(["c", "a", "c", "b"])
    for kind in ("object", "category"):
        found = numbers_in_cohort(cohort.astype(kind), pd.Series(["b", "d", "c", "a"]).astype(kind))
        assert found.tolist() == [1, -1, 2, 0]


def test_trials_of_a_calibration_set_leave_out_of_the_cohort_the_speakers_that_are_in_it(
    make_store: MakeStore,
) -> None:
    cohort_set, own = make_store([3, 1, 4, 2, 5, 2, 3]), make_store([3, 2, 4], seed=1)
    renamed = own.utterances["speaker_id"].replace({"id001": "x", "id002": "y"})  # id000 is in the cohort
    calibration_set = replace(own, utterances=own.utterances.assign(speaker_id=renamed))
    drawn = draw_calibration_trials(renamed, 60, seed=4)
    cohort = Cohort.of(cohort_set, SETTINGS.cohort, SETTINGS.centre)
    trials = trials_between_drawn(cohort_set, cohort, drawn, SETTINGS, calibration_set=calibration_set)
    plain = ReferenceCohort.of(cohort_set.embeddings, cohort_set.utterances["speaker_id"].tolist())
    raw, speakers = own.embeddings, renamed.tolist()
    expected = [
        reference.as_norm(raw[e], raw[t], plain.without([speakers[e], speakers[t]]), SETTINGS.top_n)
        for e, t in zip(drawn.enroll_rows, drawn.test_rows, strict=True)
    ]
    np.testing.assert_allclose(trials.scores_by(AsNorm), expected, rtol=1e-5, atol=1e-5)


def test_calibrations_are_those_of_the_calibration_set_and_plda_that_of_the_cohort(
    make_store: MakeStore,
) -> None:
    cohort_set, own = make_store([4] * 20), make_store([4] * 20, seed=1)
    apart = own.utterances["speaker_id"].str.replace("id", "x")
    calibration_set = replace(own, utterances=own.utterances.assign(speaker_id=apart))
    cohort = Cohort.of(cohort_set, SETTINGS.cohort, SETTINGS.centre)
    drawn = draw_calibration_trials(apart, 400, seed=4)
    calibration, fitted = fit_scorings(cohort_set, cohort, drawn, SETTINGS, calibration_set=calibration_set)
    on_cohort, fitted_on_cohort = fit_scorings(cohort_set, cohort, drawn, SETTINGS)
    assert all(
        calibration.scorings[name].affine != on_cohort.scorings[name].affine for name in ("cosine", "as_norm")
    )
    for name, values in fitted["plda"].items():
        np.testing.assert_array_equal(values, fitted_on_cohort["plda"][name])
    as_set, _ = fit_scorings(cohort_set, cohort, drawn, SETTINGS, calibration_set=cohort_set)
    assert as_set == on_cohort

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.scoring import EmbeddingStore
from speaker_verification.scoring.calibration_trials import (
    CalibrationTrials,
    calibration_trials,
    distinct_trials,
    draw_calibration_trials,
)
from speaker_verification.scoring.settings import ScoreSettings

MakeStore = Callable[..., EmbeddingStore]


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


def test_target_trials_across_sessions_are_never_within_one(make_store: MakeStore) -> None:
    store = make_store([5, 4, 3, 2])
    sessions = pd.Series(["s", "t", "u"] * 5)[: len(store.utterances)]
    utterances = store.utterances.assign(session_id=sessions)
    utterances.loc[utterances["speaker_id"] == "id002", "session_id"] = "s"  # of one session: no target
    settings = ScoreSettings(calibration_trials=4000, calibration_sessions="across")
    trials = calibration_trials(utterances, utterances.iloc[:0], settings, seed=0)
    of_trials = [
        utterances.iloc[rows].reset_index(drop=True) for rows in (trials.enroll_rows, trials.test_rows)
    ]
    same = {name: (of_trials[0][name] == of_trials[1][name]).to_numpy() for name in utterances}
    target = trials.labels == 1
    np.testing.assert_array_equal(same["speaker_id"], target)
    assert not same["session_id"][target].any()
    speaker, session = (utterances[name].to_numpy() for name in ("speaker_id", "session_id"))
    possible = (speaker[:, None] == speaker) & (session[:, None] != session)
    pairs = set(zip(trials.enroll_rows[target], trials.test_rows[target], strict=True))
    assert pairs == set(zip(*possible.nonzero(), strict=True))  # every ordered pair comes
    one_session = utterances.assign(session_id="s")
    with pytest.raises(DataError, match="0 of them with two sessions"):
        calibration_trials(one_session, utterances.iloc[:0], settings, seed=0)


def test_distinct_trials_pair_two_utterances_once_in_either_order() -> None:
    drawn = CalibrationTrials(
        np.array([3, 0, 1, 0, 2, 3]), np.array([1, 2, 3, 4, 0, 1]), np.array([1, 1, 1, 0, 1, 1])
    )
    found = distinct_trials(drawn)
    assert (found.enroll_rows.tolist(), found.test_rows.tolist()) == ([3, 0, 0], [1, 2, 4])
    assert found.labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize("speakers", [["a", "a", "a"], ["a", "b", "c"]])
def test_corpus_without_both_kinds_of_trials_is_refused(speakers: list[str]) -> None:
    with pytest.raises(DataError, match="calibration needs two speakers and one with two utterances"):
        draw_calibration_trials(pd.Series(speakers), 10, seed=0)


def test_validation_speakers_alone_are_drawn_where_they_are_asked_for(make_store: MakeStore) -> None:
    store = make_store([3, 2, 4, 1, 5])
    speakers = store.utterances["speaker_id"]
    validation = store.utterances[speakers.isin(["id001", "id002"])]
    settings = ScoreSettings(calibration_speakers="validation", calibration_trials=400)
    trials = calibration_trials(store.utterances, validation, settings, seed=0)
    for rows in (trials.enroll_rows, trials.test_rows):
        assert set(speakers.iloc[rows]) == {"id001", "id002"}
    enroll, test = (speakers.iloc[rows].to_numpy() for rows in (trials.enroll_rows, trials.test_rows))
    np.testing.assert_array_equal(enroll == test, trials.labels == 1)
    elsewhere = validation.assign(utterance_id="another/s/1.wav")
    with pytest.raises(
        DataError, match=r"'score\.calibration_speakers' is 'validation', but .* none of these"
    ):
        calibration_trials(store.utterances, elsewhere, settings, seed=0)

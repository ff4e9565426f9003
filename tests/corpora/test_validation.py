"""Validation speakers and trials."""

from __future__ import annotations

import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.corpora.validation import draw_validation_trials, hold_out_speakers
from tests.support.corpora import manifest

TRAINING = manifest({"a": 4, "b": 1, "c": 5, "d": 3, "e": 1, "f": 6})


def test_held_out_speakers_are_in_no_training_utterance() -> None:
    training, validation = hold_out_speakers(TRAINING, 3, seed=0)
    assert validation["speaker_id"].nunique() == 3
    assert not set(training["speaker_id"]) & set(validation["speaker_id"])
    assert sorted([*training["utterance_id"], *validation["utterance_id"]]) == list(TRAINING["utterance_id"])
    assert list(training.index) == list(range(len(training)))


def test_speakers_with_one_utterance_are_never_held_out() -> None:
    _, validation = hold_out_speakers(TRAINING, 4, seed=0)
    assert set(validation["speaker_id"]) == {"a", "c", "d", "f"}


def test_the_split_depends_on_the_seed_alone() -> None:
    many = manifest({f"s{number:02d}": 2 for number in range(40)})
    held_out = [set(hold_out_speakers(many, 5, seed)[1]["speaker_id"]) for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    assert set(hold_out_speakers(many[::-1], 5, 0)[1]["speaker_id"]) == held_out[0]


def test_a_share_of_the_speakers_is_held_out_two_at_least() -> None:
    assert hold_out_speakers(TRAINING, 0.5, seed=0)[1]["speaker_id"].nunique() == 3
    assert hold_out_speakers(TRAINING, 0.1, seed=0)[1]["speaker_id"].nunique() == 2
    with pytest.raises(ParameterError, match=r"validation_speakers' is 0\.9, but only 4 of the 6"):
        hold_out_speakers(TRAINING, 0.9, seed=0)


def test_more_speakers_than_can_be_held_out_are_refused() -> None:
    with pytest.raises(
        ParameterError, match="validation_speakers' is 5, but only 4 of the 6 training speakers"
    ):
        hold_out_speakers(TRAINING, 5, seed=0)
    with pytest.raises(ParameterError, match="validation_speakers' is 3, which leaves 1 of 4 speakers"):
        hold_out_speakers(manifest({"a": 2, "b": 2, "c": 2, "d": 2}), 3, seed=0)


def test_half_of_the_trials_are_target_trials() -> None:
    trials = draw_validation_trials(manifest({"a": 6, "b": 6, "c": 6}), 41, seed=0)
    assert trials["label"].value_counts().to_dict() == {0: 21, 1: 20}
    assert set(trials["trial_list"]) == {"validation"}
    pd.testing.assert_frame_equal(
        trials, draw_validation_trials(manifest({"a": 6, "b": 6, "c": 6}), 41, seed=0)
    )


def test_trials_of_one_kind_only_are_refused() -> None:
    with pytest.raises(DataError, match="1 held-out speakers with 5 utterances"):
        draw_validation_trials(manifest({"a": 5}), 10, seed=0)
    with pytest.raises(DataError, match="no target or no non-target trials"):
        draw_validation_trials(manifest({"a": 1, "b": 1}), 10, seed=0)

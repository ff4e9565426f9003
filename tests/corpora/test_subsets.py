"""Named subsets, and speakers that must not be trained on."""

from __future__ import annotations

import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.corpora.subsets import refuse_seen_speakers, select_subset, subsets_of
from speaker_verification.corpora.trials.trials import draw_trials
from tests.support.corpora import manifest

UTTERANCES = pd.concat(
    [
        manifest({"id1": 2, "id2": 2}, "vox1-dev"),
        manifest({"id3": 2}, "vox1-test"),
        manifest({"id4": 3}, "vox2-dev"),
    ],
    ignore_index=True,
)


def trials_of(trial_list: str, *speakers: str) -> pd.DataFrame:
    import numpy as np

    chosen = UTTERANCES[UTTERANCES["speaker_id"].isin(speakers)]
    return draw_trials(chosen, 5, 0, trial_list, np.random.default_rng(0))


def test_a_named_subset_holds_its_archives_utterances() -> None:
    assert set(select_subset(UTTERANCES, "voxceleb1-dev")["speaker_id"]) == {"id1", "id2"}
    both = select_subset(UTTERANCES, "voxceleb12-dev")
    assert list(both["speaker_id"]) == ["id1"] * 2 + ["id2"] * 2 + ["id4"] * 3
    assert list(both.index) == list(range(7))


def test_sets_joined_by_a_plus_hold_the_subsets_of_all_of_them_once() -> None:
    assert subsets_of("voxceleb2-dev+cnceleb12-dev") == ("vox2-dev", "cnceleb1-dev", "cnceleb2-dev")
    assert subsets_of("voxceleb12-dev+vox2-dev") == ("vox1-dev", "vox2-dev")
    joined = select_subset(UTTERANCES, "vox2-dev+vox1-test")
    assert list(joined["speaker_id"]) == ["id3"] * 2 + ["id4"] * 3
    with pytest.raises(ParameterError, match="unknown subset 'vox3-dev': did you mean 'vox"):
        subsets_of("vox2-dev+vox3-dev")


def test_a_limited_subset_is_spread_over_the_utterances_of_each_speaker() -> None:
    table = pd.concat([manifest({"id1": 7, "id2": 2}, "vox2-dev"), manifest({"id3": 5}, "vox1-test")])
    for limit, rows in ((1, [6, 8]), (2, [3, 6, 7, 8]), (3, [2, 4, 6, 7, 8]), (7, list(range(9)))):
        limited = select_subset(table, "voxceleb2-dev", limit)
        pd.testing.assert_frame_equal(limited, table.iloc[rows].reset_index(drop=True))


def test_an_unknown_subset_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(ParameterError, match="unknown subset 'voxceleb2dev': did you mean 'voxceleb2-dev'"):
        select_subset(UTTERANCES, "voxceleb2dev")


def test_a_subset_without_utterances_is_refused() -> None:
    with pytest.raises(DataError, match="no utterances of vox2-test, which 'voxceleb2-test' needs"):
        select_subset(UTTERANCES, "voxceleb2-test")


def test_speakers_of_the_trials_are_refused_by_list_unless_allowed() -> None:
    trials = pd.concat([trials_of("vox1_o", "id3"), trials_of("vox1_e", "id1", "id3")], ignore_index=True)
    refuse_seen_speakers(trials, UTTERANCES, "voxceleb2-dev", "prepare.training_set", allowed=False)
    message = (
        "prepare.training_set = 'voxceleb12-dev' holds 1 speakers of the trials vox1_e: "
        "take another subset, drop these lists, or set prepare.allow_seen_speakers"
    )
    with pytest.raises(ParameterError, match=message):
        refuse_seen_speakers(trials, UTTERANCES, "voxceleb12-dev", "prepare.training_set", allowed=False)
    refuse_seen_speakers(trials, UTTERANCES, "voxceleb12-dev", "prepare.training_set", allowed=True)


def test_seen_speakers_are_those_of_the_manifest_whatever_the_ids_begin_with() -> None:
    speech = UTTERANCES.assign(utterance_id="corpus/" + UTTERANCES["utterance_id"])
    trials = trials_of("own", "id4")
    sides = {side: "corpus/" + trials[side].astype(str) for side in ("enroll_id", "test_id")}
    with pytest.raises(ParameterError, match="holds 1 speakers of the trials own"):
        refuse_seen_speakers(trials.assign(**sides), speech, "voxceleb2-dev", "embed.cohort_set", False)

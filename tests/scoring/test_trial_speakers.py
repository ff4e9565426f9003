from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.trial_speakers import (
    find_speakers,
    judge_given_speakers,
    speakers_of_trials,
)

NUM_SPEAKERS, NUM_SESSIONS = 5, 3
Naming = Callable[[int, int], str]


def trials(name: Naming, across: bool = True) -> pd.DataFrame:
    """Every pair of sessions of every speaker, or of utterances of a session, and every pair of speakers."""
    rows = []
    for speaker in range(NUM_SPEAKERS):
        for session in range(NUM_SESSIONS):
            again = (session + 1) % NUM_SESSIONS if across else session
            rows.append((name(speaker, session), name(speaker, again), 1))
            other = (speaker + 1 + session) % NUM_SPEAKERS
            rows.append((name(speaker, session), name(other, session), 0))
    return pd.DataFrame(rows, columns=["enroll_id", "test_id", "label"])


VOXCELEB = "id{:05}/Zx3_a-b{}/00001.wav"
NAMINGS = {
    "this project's": (VOXCELEB, "SPEAKER/SESSION/UTTERANCE"),
    "with folders in front": ("/data/voxceleb/wav/" + VOXCELEB, "SPEAKER/SESSION/UTTERANCE"),
    "of Windows": ("D:\\voxceleb\\wav\\id{}\\session{}\\1.wav", "SPEAKER/SESSION/UTTERANCE"),
    "without a session": ("wav/speaker{}/utterance{}.flac", "SPEAKER/UTTERANCE"),
    "deeper": ("speaker{}/day{}/room/microphone/1.wav", "SPEAKER/..."),
    "of Kaldi": ("id{:05}-Zx3_a-b{}-00001", "SPEAKER-..."),
    "of CN-Celeb": ("test/id{:05}-singing-{:02}-001.wav", "SPEAKER-..."),
    "of VCTK": ("p{}_{:03}_mic1", "SPEAKER_..."),
    "of speakers with a dash": ("speaker-{}-{}.wav", "SPEAKER-UTTERANCE"),
    "of speakers with an underscore": ("s_{}_{}", "SPEAKER_UTTERANCE"),
}


@pytest.mark.parametrize(("naming", "reading"), NAMINGS.values(), ids=list(NAMINGS))
def test_speakers_are_found_in_ids_of_many_kinds(naming: str, reading: str) -> None:
    table = trials(lambda speaker, session: naming.format(speaker, session))
    found = find_speakers(table)
    assert found.speakers is not None, found.note
    assert found.speakers.number == NUM_SPEAKERS
    assert found.note == f"{NUM_SPEAKERS} speakers, read from ids {reading}"
    expected = np.repeat(np.arange(NUM_SPEAKERS), 2 * NUM_SESSIONS)
    np.testing.assert_array_equal(found.speakers.enroll, expected)


def test_enrolment_by_the_speakers_own_name_is_read_beside_the_utterances() -> None:
    table = trials(lambda speaker, session: f"test/id{speaker}-singing-{session}.wav")
    table["enroll_id"] = table["enroll_id"].str.extract(r"(id\d)")[0] + "-enroll"
    found = find_speakers(table)
    assert found.speakers is not None
    assert found.speakers.number == NUM_SPEAKERS


@pytest.mark.parametrize("name", ["utt{1}{0}", "wav/{0}{1}.wav", "all/in/one-{0}{1}"])
def test_ids_that_do_not_name_their_speakers_give_none_and_a_trial_that_contradicts(name: str) -> None:
    found = find_speakers(trials(lambda speaker, session: name.format(speaker, session)))
    assert found.speakers is None
    assert "the ids do not tell the speakers" in found.note
    assert "15 of 30 trials contradict" in found.note
    assert found.note.endswith(("target'", "nontarget'"))


def test_one_wrong_label_is_enough_to_doubt_the_ids() -> None:
    table = trials(VOXCELEB.format)
    table.loc[3, "label"] = 1
    found = find_speakers(table)
    assert found.speakers is None
    row = table.iloc[3]
    assert f"1 of 30 trials contradict their labels, the first: '{row.enroll_id} {row.test_id} target'" in (
        found.note
    )


def test_ids_with_two_readings_that_the_labels_confirm_give_none() -> None:
    # Targets within a session: speakers and sessions fit the labels as well.
    table = trials(lambda speaker, session: f"id{speaker}/{speaker}{session}/1.wav", across=False)
    found = find_speakers(table)
    assert found.speakers is None
    assert "SPEAKER/SESSION/UTTERANCE gives 5 of them, SPEAKER/UTTERANCE 15" in found.note


def given(speaker_of: Callable[[str], str], table: pd.DataFrame) -> pd.DataFrame:
    ids = pd.concat([table["enroll_id"], table["test_id"]]).unique()
    return pd.DataFrame({"utterance_id": ids, "speaker_id": [speaker_of(name) for name in ids]})


def test_given_speakers_stand_against_single_labels_and_not_against_many() -> None:
    table = trials(lambda speaker, session: f"{session}x{speaker}")
    speakers = given(lambda name: name[-1], table)
    agreed = judge_given_speakers(table, speakers)
    assert (agreed.note, agreed.num_contradicting) == ("5 speakers, as given", 0)
    mislabelled = table.assign(label=table["label"].where(table.index != 1, 1))
    doubted = judge_given_speakers(mislabelled, speakers)
    assert doubted.speakers is not None
    assert doubted.num_contradicting == 1
    assert "1 of 30 trials contradict the speakers given, the first: '0x0 0x1 target'" in doubted.note
    for wrong in (given(lambda name: "one", table), given(lambda name: name[0], table)):
        refused = judge_given_speakers(table, wrong)
        assert refused.speakers is None
        assert refused.num_contradicting >= 15


def test_utterances_without_a_speaker_are_named() -> None:
    table = trials(VOXCELEB.format)
    with pytest.raises(DataError, match=r"^1 utterances of the trials .*id00000/Zx3_a-b0/00001\.wav"):
        speakers_of_trials(table, given(lambda name: name, table)[1:])

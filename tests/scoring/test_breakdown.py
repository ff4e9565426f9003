from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import SPEAKERS
from speaker_verification.scoring.breakdown import rates_by_group, reliability, worst_trials
from speaker_verification.scoring.settings import ReportSettings
from tests.support.scores import calibration, scores_of


def utterances(seconds: dict[str, float]) -> pd.DataFrame:
    ids = [f"id{speaker}/s/{place}.wav" for speaker in range(6) for place in (1, 2)]
    return pd.DataFrame(
        {
            "utterance_id": ids,
            "speaker_id": [name.split("/")[0] for name in ids],
            "duration_seconds": [seconds.get(name, 5.0) for name in ids],
        }
    )


def speakers(genders: str, nationalities: list[str] | None = None) -> pd.DataFrame:
    """A gender for each of the first speakers."""
    names = [f"id{place}" for place in range(len(genders))]
    gender = [{"?": "unknown"}.get(letter, letter) for letter in genders]
    nationality = nationalities or ["unknown"] * len(names)
    return pd.DataFrame({"speaker_id": names, "gender": gender, "nationality": nationality})


def group(table: pd.DataFrame, by: str, name: str, scoring: str = "cosine") -> pd.Series:
    found = table[(table["by"] == by) & (table["group"] == name) & (table["scoring"] == scoring)]
    assert len(found) == 1
    return found.iloc[0]


def test_durations_are_those_of_the_shorter_side() -> None:
    # Trials pair id0/1 with id0/2, id1/1 with id2/2, id2/1 with id2/2, and so on.
    scores = scores_of([1.0, -1.0, 2.0, -2.0], [1, 0, 1, 0])
    table = rates_by_group(
        scores,
        calibration(),
        utterances({"id0/s/2.wav": 1.9, "id1/s/1.wav": 2.0, "id2/s/1.wav": 60.0, "id2/s/2.wav": 12.0}),
        SPEAKERS.empty(),
        ReportSettings(),
    )
    assert set(table["by"]) == {"duration"}  # nothing is known of the speakers
    of_cosine = table[table["scoring"] == "cosine"].set_index("group")[["num_target", "num_nontarget"]]
    assert of_cosine.to_dict("index") == {
        "under 2 s": {"num_target": 1, "num_nontarget": 0},
        "2 to 4 s": {"num_target": 0, "num_nontarget": 1},
        "4 to 6 s": {"num_target": 0, "num_nontarget": 1},
        "from 12 s": {"num_target": 1, "num_nontarget": 0},
    }


def test_rates_of_a_group_at_the_threshold_of_the_list_and_at_its_own() -> None:
    # Of the whole list the EER's threshold is 1: id0's targets at -2 and 0 are missed, id1's are not.
    llr = [-2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0, 2.0, 4.0, 5.0, 6.0, 7.0]
    nontargets = [-3.0, 1.0, -4.0, -5.0, -6.0, -7.0, -3.0, 1.0, -4.0, -5.0, -6.0, -7.0]
    scores = scores_of([*llr, *nontargets], [1] * 12 + [0] * 12)
    table = rates_by_group(
        scores, calibration(), utterances({}), speakers("fmfmfm"), ReportSettings(min_trials=6)
    )
    women = group(table, "gender", "f")
    assert (women["num_target"], women["num_nontarget"]) == (6, 0)
    assert women["fnr"] == pytest.approx(100 * 2 / 6)
    assert math.isnan(women["fpr"])
    assert math.isnan(women["eer"])
    mixed = group(table, "gender", "different")
    assert (mixed["num_target"], mixed["num_nontarget"]) == (0, 12)
    assert mixed["fpr"] == pytest.approx(100 * 2 / 12)
    whole = group(table, "duration", "4 to 6 s")
    assert whole["eer"] == pytest.approx(100 * 2 / 12)
    assert whole["fnr"] == pytest.approx(100 * 2 / 12)


def test_group_of_few_trials_has_counts_and_no_rate() -> None:
    scores = scores_of([1.0, -1.0] * 6, [1, 0] * 6)
    for least, known in ((6, True), (7, False)):
        table = rates_by_group(
            scores, calibration(), utterances({}), speakers(""), ReportSettings(min_trials=least)
        )
        row = group(table, "duration", "4 to 6 s", "qmf")
        assert (row["num_target"], row["num_nontarget"]) == (6, 6)
        assert row[["eer", "fnr", "fpr"]].notna().tolist() == [known] * 3


def test_speakers_of_whom_nothing_is_known_make_a_group_of_their_own() -> None:
    # Non-targets pair each speaker with the next: f-f, f-?, ?-m, m-m, m-absent, absent-f
    scores = scores_of([1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0], [1, 0, 0, 0, 0, 0, 0])
    scores.loc[0, ["enroll_id", "test_id"]] = ["id3/s/1.wav", "id3/s/2.wav"]
    scores.loc[6, ["enroll_id", "test_id"]] = ["id0/s/1.wav", "id1/s/2.wav"]
    people = speakers("ff?mm", ["USA", "Chad", "USA", "USA", "Chad"])
    table = rates_by_group(scores, calibration(), utterances({}), people, ReportSettings())
    counts = table[table["scoring"] == "cosine"].set_index(["by", "group"])["num_nontarget"]
    assert counts["gender"].to_dict() == {"f": 1, "m": 1, "unknown": 4}
    assert counts["nationality"].to_dict() == {"USA": 1, "different": 3, "unknown": 2}


def test_trial_of_an_unknown_utterance_is_named() -> None:
    scores = scores_of([1.0, -1.0], [1, 0]).assign(test_id="id9/s/1.wav")
    with pytest.raises(DataError, match=r"1 utterances of the trials .*id9/s/1\.wav"):
        rates_by_group(scores, calibration(), utterances({}), speakers(""), ReportSettings())


def test_edges_of_durations_must_rise() -> None:
    with pytest.raises(ParameterError, match=r"'report\.duration_edges': must rise"):
        ReportSettings.parse({"duration_edges": [2.0, 2.0]}, "report")


def test_reliability_by_hand() -> None:
    # Between 1 and 2 nats lie two of three targets and one of four non-targets: log((2/3) / (1/4)).
    scores = scores_of([1.1, 1.9, 12.0, 1.5, -0.5, -0.7, -30.0], [1, 1, 1, 0, 0, 0, 0])
    table = reliability(scores, calibration())
    of_qmf = table[table["scoring"] == "qmf"]
    assert of_qmf["llr_from"].tolist() == [-math.inf, -1.0, 1.0, 10.0]
    assert of_qmf["llr_to"].tolist() == [-10.0, 0.0, 2.0, math.inf]
    assert of_qmf["num_target"].tolist() == [0, 0, 2, 1]
    assert of_qmf["num_nontarget"].tolist() == [1, 2, 1, 0]
    assert of_qmf["mean_llr"].tolist() == pytest.approx([-30.0, -0.6, 1.5, 12.0])
    np.testing.assert_allclose(of_qmf["empirical_llr"], [np.nan, np.nan, math.log(8 / 3), np.nan])


def test_scores_that_mean_what_they_say_are_reliable_in_every_bin() -> None:
    llr = np.repeat(np.arange(-3, 4) + 0.5, 2)
    label = np.tile([1, 0], 7)
    odds = np.exp(llr[::2])
    # As many trials as p(llr | class) says: a third of the classes' mass where llr is log(odds)
    weights = np.stack([odds / (1 + odds), 1 / (1 + odds)], axis=1).ravel() * 4000
    scores = scores_of(np.repeat(llr, weights.astype(int)), np.repeat(label, weights.astype(int)))
    table = reliability(scores, calibration())
    of_qmf = table[table["scoring"] == "qmf"]
    shift = np.log((label == 0) @ weights.astype(int) / ((label == 1) @ weights.astype(int)))
    np.testing.assert_allclose(of_qmf["empirical_llr"], of_qmf["mean_llr"] + shift, atol=0.01)


def test_worst_trials_of_every_list_and_class_come_first() -> None:
    llr, label = [3.0, -1.0, 2.0, 1.0, -2.0, 0.0], [1, 1, 1, 0, 0, 0]
    scores = scores_of([*llr, *llr], [*label, *label], ["vox1_o"] * 6 + ["vox1_e"] * 6)
    worst = worst_trials(scores, 2)
    assert worst["llr"].tolist() == [-1.0, 2.0, 1.0, 0.0] * 2
    assert worst["trial_list"].tolist() == ["vox1_o"] * 4 + ["vox1_e"] * 4
    assert worst["label"].tolist() == [1, 1, 0, 0] * 2
    pd.testing.assert_index_equal(worst.columns, scores.columns)

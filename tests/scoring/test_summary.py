from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from speaker_verification.errors import DataError
from speaker_verification.scoring import equal_error_rate, min_detection_cost
from speaker_verification.scoring.summary import format_table, measure
from speaker_verification.tables import SCORES


def scores_table(num_trials: int = 400, names: tuple[str, ...] = ("vox1_o", "vox1_e")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = np.tile([1, 0], num_trials // 2)
    enroll = rng.integers(0, 12, num_trials)
    test = np.where(label == 1, enroll, (enroll + rng.integers(1, 12, num_trials)) % 12)
    llr = 6 * label - 3 + 2 * rng.normal(size=num_trials)
    return SCORES.conform(
        pd.DataFrame(
            {
                "trial_list": rng.permutation(np.repeat(names, num_trials // len(names))),
                "enroll_id": [f"id{e}/s/1.wav" for e in enroll],
                "test_id": [f"id{t}/s/2.wav" for t in test],
                "label": label,
                "cosine": llr / 10 + 0.1 * rng.normal(size=num_trials),
                "as_norm": llr + rng.normal(size=num_trials),
                "qmf": 1 / (1 + np.exp(-llr)),
                "llr": llr,
            }
        )
    )


def test_every_list_and_scoring_is_measured_on_its_own_trials() -> None:
    scores = scores_table()
    metrics = measure(scores)
    assert set(metrics) == {"vox1_o", "vox1_e"}
    for trial_list, scorings in metrics.items():
        rows = scores[scores["trial_list"] == trial_list]
        assert list(scorings) == ["cosine", "as_norm", "qmf"]
        for scoring, values in scorings.items():
            eer, threshold = equal_error_rate(rows[scoring], rows["label"])
            assert values["eer"] == eer
            assert values["threshold_eer"] == pytest.approx(threshold, rel=1e-12)
            for p_target, name in ((0.01, "p01"), (0.05, "p05")):
                cost, threshold = min_detection_cost(rows[scoring], rows["label"], p_target)
                assert values[f"min_dcf_{name}"] == cost
                assert values[f"threshold_{name}"] == pytest.approx(threshold, rel=1e-12)
            assert values["num_target"] == (rows["label"] == 1).sum()
            assert values["num_nontarget"] == (rows["label"] == 0).sum()
            assert values["num_speakers"] == 12
            low, high = values["eer_interval"]
            assert 0 <= low < eer < high


def test_metrics_are_plain_values() -> None:
    metrics = measure(scores_table())
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_probabilities_that_round_to_one_are_still_told_apart() -> None:
    scores = scores_table(num_trials=6, names=("vox1_o",)).assign(
        label=[0, 0, 0, 1, 1, 1], llr=[40.0, 41.0, 42.0, 50.0, 51.0, 52.0], qmf=1.0
    )
    values = measure(scores)["vox1_o"]["qmf"]
    assert values["eer"] == 0.0
    assert values["threshold_eer"] == 1.0


def test_list_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="targets"):
        measure(scores_table().assign(label=1))


def test_table_has_a_line_for_each_list_and_scoring_in_straight_columns() -> None:
    values = {
        "eer": 3.14159,
        "eer_interval": [2.0, 4.5],
        "min_dcf_p01": 0.25,
        "min_dcf_p05": 0.125,
        "threshold_eer": -1.5,
        "threshold_p01": 0.0,
        "threshold_p05": 0.0,
        "num_target": 30_000,
        "num_nontarget": 7_611,
        "num_speakers": 40,
    }
    metrics = {
        "vox1_o": {"cosine": values, "qmf": {**values, "eer": 12.5}},
        "vox1_e_original": {"cosine": values},
    }
    assert format_table(metrics).splitlines() == [
        "trial list       trials  scoring   EER %  95 % range  DCF 0.01  DCF 0.05   at EER",
        "---------------  ------  -------  ------  ----------  --------  --------  -------",
        "vox1_o           37,611  cosine    3.142   2.00-4.50    0.2500    0.1250  -1.5000",
        "vox1_o           37,611  qmf      12.500   2.00-4.50    0.2500    0.1250  -1.5000",
        "vox1_e_original  37,611  cosine    3.142   2.00-4.50    0.2500    0.1250  -1.5000",
    ]


def test_speakers_are_told_by_the_first_part_of_the_id() -> None:
    rows = scores_table(num_trials=4, names=("vox1_o",)).assign(
        enroll_id=["a/s/1.wav", "a/t/2.wav", "b/s/1.wav", "b/s/1.wav"],
        test_id=["a/t/2.wav", "b/s/1.wav", "b/t/2.wav", "c/s/1.wav"],
    )
    assert measure(rows)["vox1_o"]["cosine"]["num_speakers"] == 3

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import SCORES, TRIAL_LISTS
from speaker_verification.scoring import (
    actual_detection_cost,
    cllr,
    equal_error_rate,
    min_cllr,
    min_detection_cost,
)
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.summary import (
    Metrics,
    compute_metrics,
    format_table,
    metrics_of_trials,
)
from tests.support.scores import calibration, scores_of, utterances_of


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
                "qmf": llr,
                "llr": llr,
            }
        )
    )


def measure(scores: pd.DataFrame, trial_lists: pd.DataFrame | None = None, **settings: object) -> Metrics:
    parsed = ScoreSettings.parse(settings, "score")
    return compute_metrics(scores, calibration(), utterances_of(scores), parsed, trial_lists)


def test_every_list_and_scoring_is_measured_on_its_own_trials() -> None:
    scores = scores_table()
    metrics = measure(scores)
    assert set(metrics) == {"vox1_o", "vox1_e"}
    for trial_list, scorings in metrics.items():
        rows = scores[scores["trial_list"] == trial_list]
        assert tuple(scorings) == ("cosine", "as_norm", "qmf")
        for scoring, values in scorings.items():
            eer, threshold = equal_error_rate(rows[scoring], rows["label"])
            assert values["eer"] == eer
            assert values["threshold_eer"] == pytest.approx(threshold, rel=1e-12)
            llrs = {"cosine": 10 * rows["cosine"], "as_norm": rows["as_norm"], "qmf": rows["llr"]}[scoring]
            assert values["cllr"] == cllr(llrs, rows["label"])
            assert values["min_cllr"] == min_cllr(llrs, rows["label"])
            for p_target, name in ((0.01, "p01"), (0.05, "p05")):
                cost, threshold = min_detection_cost(rows[scoring], rows["label"], p_target)
                assert values[f"min_dcf_{name}"] == cost
                assert values[f"act_dcf_{name}"] == actual_detection_cost(llrs, rows["label"], p_target)
                assert values[f"threshold_{name}"] == pytest.approx(threshold, rel=1e-12)
                refused = llrs < math.log((1 - p_target) / p_target)
                assert values[f"act_fnr_{name}"] == pytest.approx(100 * refused[rows["label"] == 1].mean())
                assert values[f"act_fpr_{name}"] == pytest.approx(100 * (~refused)[rows["label"] == 0].mean())
            assert values["num_target"] == (rows["label"] == 1).sum()
            assert values["num_nontarget"] == (rows["label"] == 0).sum()
            assert values["num_speakers"] == 12
            low, high = values["eer_interval"]
            assert 0 <= low < eer < high


def test_operating_points_are_those_of_the_parameters() -> None:
    scores = scores_table()
    values = measure(scores, p_targets=[0.1, 0.001], c_miss=2.0, bootstrap_resamples=0)["vox1_o"]["cosine"]
    assert [name for name in values if "dcf" in name] == [
        "min_dcf_p1",
        "min_dcf_p001",
        "act_dcf_p1",
        "act_dcf_p001",
    ]
    rows = scores[scores["trial_list"] == "vox1_o"]
    assert values["min_dcf_p1"] == min_detection_cost(rows["cosine"], rows["label"], 0.1, c_miss=2.0)[0]
    assert "eer_interval" not in values


def test_metrics_are_plain_values() -> None:
    metrics = measure(scores_table())
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_high_ratios_are_told_apart() -> None:
    scores = scores_of([40.0, 41.0, 42.0, 50.0, 51.0, 52.0], [0, 0, 0, 1, 1, 1])
    values = measure(scores)["vox1_o"]["qmf"]
    assert values["eer"] == 0.0
    assert 42 < values["threshold_eer"] <= 50


def test_list_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="targets"):
        measure(scores_table().assign(label=1))


VALUES = {
    "eer": 3.14159,
    "eer_interval": [2.0, 4.5],
    "threshold_eer": -1.5,
    "min_cllr": 0.1,
    "min_dcf_p01": 0.25,
    "threshold_p01": 0.0,
    "cllr": 0.12345,
    "act_dcf_p01": 1.5,
    "num_target": 30_000,
    "num_nontarget": 7_611,
    "num_speakers": 40,
}


def test_table_has_a_line_for_each_list_and_scoring_in_straight_columns() -> None:
    metrics = {
        "vox1_o": {"cosine": VALUES, "qmf": {**VALUES, "eer": 12.5}},
        "vox1_e_original": {"cosine": VALUES},
    }
    assert format_table(metrics).splitlines() == [
        "trial list       trials  scoring   EER %  95 % range       DCF 0.01           Cllr",
        "---------------  ------  -------  ------  ----------  -------------  -------------",
        "vox1_o           37,611  cosine    3.142   2.00-4.50  0.2500 1.5000  0.1000 0.1235",
        "vox1_o           37,611  qmf      12.500   2.00-4.50  0.2500 1.5000  0.1000 0.1235",
        "vox1_e_original  37,611  cosine    3.142   2.00-4.50  0.2500 1.5000  0.1000 0.1235",
        "DCF and Cllr: the least over all thresholds, then that of the calibrated scores",
    ]


def test_rates_of_the_calibrated_decisions_and_remarks_stand_below_the_table() -> None:
    rates = {"act_fnr_p01": 31.25, "act_fpr_p01": 0.0125}
    cosine = {**VALUES, "act_fnr_p01": 100.0, "act_fpr_p01": 0.0, "remark_p01": "cosine cannot reach"}
    scorings = {"cosine": cosine, "qmf": {**VALUES, **rates}}
    lines = format_table({"vox1_o": scorings, "vox1_e": scorings}).splitlines()
    assert lines[7:] == [
        "",
        "trial list  scoring  miss, FA % at 0.01",
        "----------  -------  ------------------",
        "vox1_o      cosine        100.00  0.000",
        "vox1_o      qmf            31.25  0.013",
        "vox1_e      cosine        100.00  0.000",
        "vox1_e      qmf            31.25  0.013",
        "miss, FA: of the decisions at the calibrated threshold for this probability of a target trial",
        "cosine cannot reach",
    ]


def test_scores_that_are_no_ratios_have_the_least_costs_alone() -> None:
    known = {
        name: value for name, value in VALUES.items() if name not in ("cllr", "act_dcf_p01", "eer_interval")
    }
    assert format_table({"theirs": {"score": known}}).splitlines()[2] == (
        "theirs      37,611  score    3.142                0.2500  0.1000"
    )


def test_lists_other_than_the_published_ones_are_marked_by_what_the_metrics_say_of_them() -> None:
    counts = dict.fromkeys(("num_target", "num_nontarget", "num_repeated", "num_self", "num_mislabelled"), 1)
    records = [
        {"trial_list": name, "file": f"{name}.txt", "md5": "29fc", "official": name == "vox1_o", **counts}
        for name in ("vox1_o", "vox1_e", "vox1_h")
    ]
    trial_lists = TRIAL_LISTS.conform(pd.DataFrame(records))
    metrics = measure(scores_table(num_trials=60, names=("vox1_o", "vox1_e", "mine")), trial_lists)
    assert metrics["vox1_o"]["qmf"]["list_official"] is True
    assert "list_official" not in metrics["mine"]["qmf"]
    kept = json.loads(json.dumps(metrics))  # as a later report reads them, whatever was prepared since
    lines = format_table(kept).splitlines()
    assert {line.split()[0] for line in lines[2:11]} == {"vox1_o", "vox1_e*", "mine"}
    marked = [line for line in lines if line.startswith("* ")]
    assert marked == ["* vox1_e: not a published list (vox1_e.txt, MD5 29fc)"]


def test_speakers_are_those_of_the_table_whatever_the_ids_begin_with() -> None:
    scores = scores_table()
    moved = scores.assign(**{side: "corpus/" + scores[side].astype(str) for side in ("enroll_id", "test_id")})
    utterances = utterances_of(scores)
    moved_utterances = utterances.assign(utterance_id="corpus/" + utterances["utterance_id"])
    expected = compute_metrics(scores, calibration(), utterances, ScoreSettings())
    assert compute_metrics(moved, calibration(), moved_utterances, ScoreSettings()) == expected
    with pytest.raises(DataError, match=r"12 utterances of the trials are not in the table of speakers"):
        compute_metrics(scores, calibration(), moved_utterances, ScoreSettings())


def test_labels_against_the_speakers_of_the_table_are_counted() -> None:
    scores = scores_table()
    assert not any("num_contradicting" in values for values in measure(scores)["vox1_o"].values())
    wrong = scores.index[(scores["trial_list"] == "vox1_o") & (scores["label"] == 0)][:3]
    metrics = measure(scores.assign(label=scores["label"].mask(scores.index.isin(wrong), 1)))
    assert [values["num_contradicting"] for values in metrics["vox1_o"].values()] == [3] * 3
    assert "num_contradicting" not in metrics["vox1_e"]["cosine"]


def test_list_without_speakers_has_no_interval_and_the_table_says_why() -> None:
    scores = scores_table(names=("theirs",))
    values = metrics_of_trials(
        scores["label"].to_numpy(), None, {"score": scores["llr"].to_numpy()}, None, ScoreSettings()
    )
    assert not {"eer_interval", "num_speakers"} & set(values["score"])
    known = measure(scores)["theirs"]["qmf"]
    assert {name: known[name] for name in ("eer", "min_cllr")}.items() <= values["score"].items()
    values["score"]["no_interval"] = "the ids do not tell"
    assert format_table({"theirs": values}).splitlines()[-1] == "theirs: no interval: the ids do not tell"

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring import (
    AffineCalibration,
    Calibration,
    OperatingPoint,
    actual_detection_cost,
    cllr,
)
from speaker_verification.scoring.calibration import fit_calibration
from speaker_verification.scoring.settings import ScoreSettings
from tests.support.scores import calibration, scores_of


def gaussian_classes(num_target: int, num_nontarget: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores around 3 and 1 of deviation 1, whose log-likelihood ratio is 2 x score - 4."""
    quantiles = [
        np.array([NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)])
        for count in (num_target, num_nontarget)
    ]
    return np.concatenate([quantiles[0] + 3, quantiles[1] + 1]), np.repeat(
        [1, 0], [num_target, num_nontarget]
    )


@pytest.mark.parametrize("counts", [(2000, 2000), (500, 4000)])
@pytest.mark.parametrize("prior", [0.5, 0.05])
def test_log_likelihood_ratios_of_normal_classes_whatever_prior_and_counts(
    counts: tuple[int, int], prior: float
) -> None:
    fitted = AffineCalibration.fit(*gaussian_classes(*counts), prior)
    assert (fitted.slope, fitted.offset) == pytest.approx((2.0, -4.0), rel=0.02)


def test_decision_at_the_threshold_is_the_bayes_decision() -> None:
    fitted = AffineCalibration(2.0, -4.0)
    point = OperatingPoint(0.05)
    assert fitted.score(point.threshold) == pytest.approx((math.log(19) + 4) / 2)
    assert fitted.log_likelihood_ratio([fitted.score(1.5)]) == pytest.approx([1.5])


def test_weight_of_the_classes_follows_the_prior() -> None:
    # Scores of two values only: the log-odds at each are those of its trials, if the model can bend so far.
    scores, labels = np.repeat([0.0, 1.0], [40, 20]), np.repeat([1, 0, 1, 0], [10, 30, 15, 5])
    for prior in (0.5, 0.1):
        fitted = AffineCalibration.fit(scores, labels, prior)
        expected = [math.log((10 / 25) / (30 / 35)), math.log((15 / 25) / (5 / 35))]
        assert fitted.log_likelihood_ratio([0.0, 1.0]) == pytest.approx(expected, abs=1e-3)


def test_classes_that_do_not_overlap_leave_finite_ratios() -> None:
    fitted = AffineCalibration.fit([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    llrs = fitted.log_likelihood_ratio([0.1, 0.2, 0.5, 0.8, 0.9])
    assert np.isfinite(llrs).all()
    assert llrs[1] < -5
    assert llrs[3] > 5
    assert llrs[2] == pytest.approx(0, abs=1e-3)


def test_scores_that_tell_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="all equal"):
        AffineCalibration.fit([0.5, 0.5], [0, 1])


def test_calibrated_scores_decide_nearly_as_well_as_the_best_threshold() -> None:
    scores, labels = gaussian_classes(4000, 4000)
    llrs = AffineCalibration.fit(scores, labels).log_likelihood_ratio(scores)
    assert cllr(llrs, labels) < cllr(1.2 * llrs, labels)
    assert cllr(llrs, labels) < cllr(llrs + 0.3, labels)
    assert actual_detection_cost(llrs, labels, 0.1) < actual_detection_cost(llrs - 2, labels, 0.1)


SCORED = ("cosine", "as_norm", "qmf")


def test_every_scoring_is_calibrated_on_its_own_scores_of_the_same_trials() -> None:
    scores, labels = gaussian_classes(300, 300)
    settings = ScoreSettings(scorings=SCORED, llr="as_norm")
    by_scoring = {"cosine": scores / 10, "as_norm": 3 * scores, "qmf": 2 * scores - 4}
    fitted = fit_calibration(by_scoring, labels, np.array([0.5, 1.5]), settings)
    assert tuple(fitted.scorings) == SCORED
    assert fitted.scorings["cosine"].affine == AffineCalibration.fit(scores / 10, labels)
    assert fitted.scorings["as_norm"].affine.slope == pytest.approx(2 / 3, rel=0.02)
    np.testing.assert_array_equal(fitted.log_likelihood_ratio("qmf", by_scoring["qmf"]), by_scoring["qmf"])
    assert (fitted.centre, fitted.operating_points) == ((0.5, 1.5), ScoreSettings().operating_points)
    assert (fitted.num_trials, fitted.prior, fitted.speakers, fitted.llr) == (600, 0.5, "cohort", "as_norm")


def test_prior_reaches_the_calibrations() -> None:
    scores, labels = gaussian_classes(300, 300)
    by_scoring = {"cosine": scores**3}  # of another shape than a logistic regression's, so the prior matters
    even, odd = (
        fit_calibration(
            by_scoring,
            labels,
            np.zeros(2),
            ScoreSettings(scorings=("cosine",), llr="cosine", calibration_prior=prior),
        )
        for prior in (0.5, 0.02)
    )
    assert even.scorings["cosine"].affine != odd.scorings["cosine"].affine


def test_scoring_that_cannot_be_calibrated_is_named() -> None:
    with pytest.raises(DataError, match=r"^cosine: .*all equal"):
        fit_calibration(
            {"cosine": np.ones(4)},
            np.array([1, 1, 0, 0]),
            np.zeros(2),
            ScoreSettings(scorings=("cosine",), llr="cosine"),
        )


def test_calibration_survives_json_with_its_thresholds_in_every_unit(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(calibration().to_dict(), allow_nan=False))
    assert Calibration.read(file) == calibration()
    first, second = json.loads(file.read_text())["operating_points"]
    assert (first["p_target"], first["c_miss"], second["c_miss"]) == (0.01, 1.0, 10.0)
    expected = {"llr": math.log(99), "cosine": math.log(99) / 10, "as_norm": math.log(99)}
    expected["qmf"] = math.log(99)
    assert first["accept_from"] == pytest.approx(expected)
    assert second["accept_from"]["llr"] == pytest.approx(math.log(0.95 / 0.5))


def test_error_rates_to_expect_are_beside_every_threshold_with_their_counts() -> None:
    scores, labels = gaussian_classes(300, 300)
    settings = ScoreSettings(scorings=SCORED, p_targets=(0.5, 0.05), c_fa=2.0)
    by_scoring = {"cosine": scores / 10, "as_norm": 3 * scores, "qmf": 2 * scores - 4}
    fitted = fit_calibration(by_scoring, labels, np.zeros(2), settings)
    values = json.loads(json.dumps(fitted.to_dict(), allow_nan=False))
    for point in values["operating_points"]:
        assert set(point["accept_from"]) == {"llr", *point["errors_on_calibration_trials"]}
        for scoring, column in by_scoring.items():
            accepted = column >= point["accept_from"][scoring]
            misses, false_acceptances = (~accepted[:300]).sum(), accepted[300:].sum()
            assert point["errors_on_calibration_trials"][scoring] == {
                "miss_rate": misses / 300,
                "false_acceptance_rate": false_acceptances / 300,
                "misses": misses,
                "num_target": 300,
                "false_acceptances": false_acceptances,
                "num_nontarget": 300,
            }
    ratios = fitted.log_likelihood_ratio("cosine", scores / 10)
    assert fitted.scorings["cosine"].seen_llrs == (ratios.min(), ratios.max())
    assert Calibration.from_dict(values) == fitted


HIGH, LOW = OperatingPoint(1e-5, c_fa=2.0), OperatingPoint(1 - 1e-5)  # ratios of 12.2 and -11.5 are needed


@pytest.mark.parametrize(("point", "answer"), [(HIGH, "refused"), (LOW, "accepted")], ids=["high", "low"])
def test_operating_point_that_no_cosine_reaches_is_named(point: OperatingPoint, answer: str) -> None:
    fitted = replace(calibration(), operating_points=(point,))
    message = rf"cosine cannot reach .*p_target {point.p_target:g}, c_miss 1, c_fa {point.c_fa:g}: "
    message += (
        rf"it needs .* {point.threshold:.2f}, .* between -10\.00 and 10\.00, so every trial is {answer}"
    )
    with pytest.raises(ParameterError, match=message):
        fitted.decide([[3.5, 3.0]], [[3.5, 3.0]], point)
    with pytest.warns(UserWarning, match=message):
        fitted.thresholds(point)
    (described,) = fitted.to_dict()["operating_points"]
    assert described["reachable"] == {"cosine": False, "as_norm": True, "qmf": True}
    assert len(described["remarks"]) == 3
    beyond = r"beyond anything seen in calibration: .* between -9\.50 and 9\.50"
    assert all(re.search(beyond, fitted.unseen(point)[scoring]) for scoring in ("as_norm", "qmf"))
    short = "out of reach of cosine and beyond the calibration trials of as_norm, qmf"
    assert fitted.shortcomings(point) == short


def with_affine(**maps: AffineCalibration) -> Calibration:
    scorings = calibration().scorings
    changed = {name: replace(scorings[name], affine=affine) for name, affine in maps.items()}
    return replace(calibration(), scorings={**scorings, **changed})


def test_calibration_that_falls_with_the_score_decides_nothing() -> None:
    falling = with_affine(cosine=AffineCalibration(-0.5, 0.1), as_norm=AffineCalibration(-1.0, 0.0))
    even_odds = OperatingPoint(0.5)
    assert set(falling.unreachable(even_odds)) == {"cosine", "as_norm"}
    assert falling.shortcomings(even_odds) == "out of reach of cosine, as_norm"
    with pytest.raises(ParameterError, match=r"cosine cannot reach .*p_target 0\.5.* falls .*slope -0\.5"):
        falling.decide([[3.5, 3.0]], [[3.5, 3.0]], even_odds)


def test_operating_point_beyond_all_calibration_trials_is_decided_with_a_warning() -> None:
    point = OperatingPoint(1 / (1 + math.exp(9.55)))
    assert calibration().unreachable(point) == {}
    assert calibration().shortcomings(OperatingPoint(0.5)) == ""
    with pytest.warns(UserWarning, match=r"cosine at .* beyond anything seen in calibration"):
        decided = calibration().decide([[3.5, 3.0], [3.5, 3.0]], [[4.5, 2.0], [-3.5, 2.0]], point)
    assert decided.tolist() == [True, False]


@pytest.mark.filterwarnings("error")
def test_pairs_are_decided_at_the_threshold_of_the_operating_point() -> None:
    enroll = [[3.5, 3.0]] * 3
    test = [[3.5, 3.0], [4.5, 2.0], [-3.5, 2.0]]  # ratios of 10, 9.6 and 0
    assert calibration().decide(enroll, test, OperatingPoint(0.01)).tolist() == [True, True, False]
    assert calibration().decide(enroll, test, OperatingPoint(0.6)).tolist() == [True, True, True]
    assert calibration().remarks(OperatingPoint(0.01)) == {}


def older_format(number: int) -> dict[str, Any]:
    """The calibration as versions with format 1 or 2 wrote it."""
    values = calibration().to_dict()
    del values["scorings"]
    points = values.pop("operating_points")
    if number == 1:
        names = ("p_target", "c_miss", "c_fa", "accept_from")
        points = [{name: point[name] for name in names} for point in points]
    else:
        values["seen_llrs"] = dict.fromkeys(("cosine", "as_norm", "qmf"), (-9.5, 9.5))
    return {
        **values,
        "format": number,
        "operating_points": points,
        "cosine": {"slope": 10.0, "offset": 0.0},
        "as_norm": {"slope": 1.0, "offset": 0.0},
        "qmf": {"coefficients": [1.0] + [0.0] * 8, "intercept": 0.0, "feature_names": ["as_norm"]},
    }


def test_calibrations_of_older_formats_decide_as_before() -> None:
    test = [[4.5, 2.0], [-3.5, 2.0]]
    for number in (1, 2):
        fitted = Calibration.from_dict(json.loads(json.dumps(older_format(number))))
        assert list(fitted.scorings) == ["cosine", "as_norm"]
        assert fitted.compare([[3.5, 3.0]] * 2, test) == pytest.approx([9.6, 0.0], abs=1e-5)
        assert set(fitted.unreachable(HIGH)) == {"cosine"}
    assert fitted.scorings["cosine"] == calibration().scorings["cosine"]
    assert fitted.errors[OperatingPoint(0.01)]["cosine"].misses == 40


def test_scores_and_calibration_of_two_versions_are_refused() -> None:
    """Format 2 went with a column `qmf` of probabilities, which must not pass for log-likelihood ratios."""
    fitted = Calibration.from_dict(older_format(2))
    for use in (fitted.log_likelihood_ratios, fitted.exported):
        with pytest.raises(DataError, match=r"holds cosine, as_norm, qmf, .* cosine, as_norm: .*score pipe"):
            use(scores_of([1.0, -1.0], [1, 0]))


def test_calibration_without_cosine_compares_no_pairs() -> None:
    fitted = replace(calibration(), scorings={"qmf": calibration().scorings["qmf"]})
    with pytest.raises(DataError, match="cosine: add it"):
        fitted.compare([3.5, 3.0], [4.5, 2.0])


def test_calibration_of_another_format_is_refused() -> None:
    for values in ({**calibration().to_dict(), "format": 0}, {"coefficients": [1.0]}):
        with pytest.raises(DataError, match="score pipeline"):
            Calibration.from_dict(values)


def test_two_embeddings_are_compared_by_their_centred_cosine() -> None:
    # Centred by (0.5, -1): (3, 4) and (4, 3) have the cosine 24/25, (3, 4) and (-4, 3) are orthogonal.
    enroll = [[3.5, 3.0], [3.5, 3.0]]
    llrs = calibration().compare(enroll, [[4.5, 2.0], [-3.5, 2.0]])
    assert llrs == pytest.approx([9.6, 0.0], abs=1e-5)
    assert calibration().compare([3.5, 3.0], [4.5, 2.0]) == pytest.approx([9.6], abs=1e-5)
    with pytest.raises(DataError, match=r"width 3 cannot .* width 2"):
        calibration().compare([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]])


def test_ratios_of_every_scoring_come_from_the_scores_table() -> None:
    scores = scores_of([-3.0, 0.5, 20.0, 60.0], [0, 0, 1, 1])
    for scoring, llrs in calibration().log_likelihood_ratios(scores).items():
        assert llrs == pytest.approx([-3.0, 0.5, 20.0, 60.0]), scoring


def test_exported_log_likelihood_ratios_of_qmf_are_probabilities() -> None:
    columns = calibration().exported(scores_of([-3.0, 0.0, 60.0], [0, 1, 1]))
    assert list(columns) == ["cosine", "as_norm", "qmf", "llr"]
    assert columns["qmf"] == pytest.approx([1 / (1 + math.exp(3)), 0.5, 1.0])
    assert columns["llr"] == pytest.approx([-3.0, 0.0, 60.0])

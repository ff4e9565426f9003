"""Error rates of every trial list and scoring, as values and as a table to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.progress import shown
from speaker_verification.common.text_table import aligned
from speaker_verification.scoring.bootstrap import equal_error_rate_interval
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.metrics import OperatingPoint, cllr, decision_errors, sort_trials
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.trial_speakers import TrialSpeakers, speakers_of_trials

Metrics = dict[str, dict[str, dict[str, Any]]]

TEXT_COLUMNS = ("trial list", "scoring")


def compute_metrics(
    scores: pd.DataFrame,
    calibration: Calibration,
    utterances: pd.DataFrame,
    settings: ScoreSettings,
    trial_lists: pd.DataFrame | None = None,
) -> Metrics:
    """Error rates, costs and calibration by trial list and scoring.

    Args:
        scores: table of the SCORES schema.
        calibration: that the scores were calibrated by.
        utterances: columns utterance_id and speaker_id, of all utterances of the trials.
        settings: operating points and the number of resamples.
        trial_lists: table of the TRIAL_LISTS schema; lists that it does not hold get no record.

    Returns:
        {trial_list: what `metrics_of_trials` returns}, log-likelihood ratios included, and for each scoring
        the record of the list: "list_file", "list_md5", "list_official".
        "remark_p01" (likewise for the others) names an operating point that the calibration does not reach,
        "num_contradicting" the number of trials whose label contradicts their speakers.

    Raises:
        DataError: a trial list holds one class only, a score that is not finite, or an unknown utterance.
    """
    metrics: Metrics = {}
    records = {} if trial_lists is None else _list_records(trial_lists)
    lists = scores["trial_list"]
    for trial_list in shown("error rates", lists.unique().tolist()):
        in_list = (lists == trial_list).to_numpy()
        rows = scores if in_list.all() else scores[in_list]  # one list alone may fill half of the memory
        by_scoring = calibration.scores_by_scoring(rows)
        speakers = speakers_of_trials(rows, utterances)
        labels = rows["label"].to_numpy()
        measured = metrics_of_trials(labels, speakers, by_scoring, calibration.log_likelihood_ratio, settings)
        shared: dict[str, Any] = dict(records.get(str(trial_list), {}))
        if len(rows_against := speakers.contradictions(labels)):
            shared["num_contradicting"] = len(rows_against)
        add_remarks(measured, calibration, settings.operating_points)
        metrics[str(trial_list)] = {scoring: values | shared for scoring, values in measured.items()}
    return metrics


def add_remarks(
    measured: dict[str, dict[str, Any]], calibration: Calibration, points: Sequence[OperatingPoint]
) -> None:
    """Add to a trial list's values, by scoring, what is to be said of operating points: "remark_p01" etc."""
    for point in points:
        for scoring, remark in calibration.remarks(point).items():
            measured[scoring][f"remark_{point.name}"] = remark


def _list_records(trial_lists: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By trial list: the file, its MD5 and whether it is the published list of that name."""
    return {
        str(row.trial_list): {
            "list_file": row.file,
            "list_md5": row.md5,
            "list_official": bool(row.official),
        }
        for row in trial_lists.itertuples()
    }


def metrics_of_trials(
    labels: np.ndarray,
    speakers: TrialSpeakers | None,
    scores: Mapping[str, np.ndarray],
    llrs_of: Callable[[str, np.ndarray], np.ndarray] | None,
    settings: ScoreSettings,
) -> dict[str, dict[str, Any]]:
    """Error rates and costs of the scorings of one trial list.

    Args:
        labels: (trials,), 1 target, 0 non-target.
        speakers: of the trials, or None where they are not known.
        scores: (trials,) by scoring.
        llrs_of: gives, for a scoring and its scores, the natural log-likelihood ratios (trials,) that these
            stand for; None where they stand for none.
        settings: operating points and the number of resamples.

    Returns:
        {scoring: {"eer": %, "eer_interval": [low, high] % at 95 %, "threshold_eer": score, "min_cllr": bits,
        "min_dcf_p01": cost, "threshold_p01": score, the same for every other operating point,
        "num_target": n, "num_nontarget": n, "num_speakers": n}}, plain Python numbers. With log-likelihood
        ratios also "cllr": bits, "act_dcf_p01": cost of the decisions that they lead to and "act_fnr_p01",
        "act_fpr_p01": % of misses and of false acceptances among them, likewise for the others. Without
        resamples there is no interval, without speakers neither it nor their number.

    Raises:
        DataError: there is one class only or a score that is not finite.
    """
    metrics = {}
    for scoring, values in scores.items():
        metrics[scoring] = _score_metrics(values, labels, speakers, settings)
        if llrs_of is not None:
            metrics[scoring] |= _llr_metrics(llrs_of(scoring, values), labels, settings.operating_points)
    return metrics


def _score_metrics(
    values: np.ndarray, labels: np.ndarray, speakers: TrialSpeakers | None, settings: ScoreSettings
) -> dict[str, Any]:
    in_order = sort_trials(values, labels)
    eer, threshold_eer = in_order.equal_error_rate()
    measured: dict[str, Any] = {"eer": eer}
    if settings.bootstrap_resamples and speakers is not None:
        resamples = settings.bootstrap_resamples
        interval = equal_error_rate_interval(
            in_order, speakers.enroll, speakers.test, num_resamples=resamples
        )
        measured["eer_interval"] = list(interval)
    measured |= {"threshold_eer": threshold_eer, "min_cllr": in_order.min_cllr()}
    for point in settings.operating_points:
        cost, threshold = in_order.min_detection_cost(point)
        measured |= {f"min_dcf_{point.name}": cost, f"threshold_{point.name}": threshold}
    return {
        **measured,
        "num_target": in_order.num_target,
        "num_nontarget": in_order.num_nontarget,
        **({} if speakers is None else {"num_speakers": speakers.number}),
    }


def _llr_metrics(llrs: np.ndarray, labels: np.ndarray, points: Sequence[OperatingPoint]) -> dict[str, float]:
    measured = {"cllr": cllr(llrs, labels)}
    for point in points:
        errors = decision_errors(llrs, labels, point)
        measured[f"act_dcf_{point.name}"] = point.cost(errors.miss_rate, errors.false_acceptance_rate)
        measured[f"act_fnr_{point.name}"] = 100 * errors.miss_rate
        measured[f"act_fpr_{point.name}"] = 100 * errors.false_acceptance_rate
    return measured


def format_table(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The metrics as lines of text, one for each trial list and scoring, narrow enough for a logged terminal.

    Args:
        metrics: by trial list and scoring, as `compute_metrics` returns them; lists whose record says that
            they are not the published ones are marked.
    """
    notes = _notes(metrics)
    costs = {
        f"DCF 0.{name.removeprefix('min_dcf_p')}": name.removeprefix("min_")
        for scorings in metrics.values()
        for values in scorings.values()
        for name in values
        if name.startswith("min_dcf_")
    } | {"Cllr": "cllr"}
    header = ("trial list", "trials", "scoring", "EER %", "95 % range", *costs)
    lines = [
        (
            trial_list + ("*" if trial_list in notes else ""),
            f"{values['num_target'] + values['num_nontarget']:,}",
            scoring,
            f"{values['eer']:.3f}",
            "{:.2f}-{:.2f}".format(*values["eer_interval"]) if "eer_interval" in values else "",
            *(_least_and_actual(values, name) for name in costs.values()),
        )
        for trial_list, scorings in metrics.items()
        for scoring, values in scorings.items()
    ]
    legend = "DCF and Cllr: the least over all thresholds, then that of the calibrated scores"
    remarks = [*_missing_intervals(metrics), *_remarks(metrics), *notes.values()]
    blocks = [*aligned(header, lines, TEXT_COLUMNS), legend, *_decisions(metrics), *remarks]
    return "\n".join(blocks) + "\n"


def _decisions(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Misses and false acceptances at the calibrated thresholds, as a block of lines where they are known."""
    names = {
        name.removeprefix("act_fnr_"): None
        for scorings in metrics.values()
        for values in scorings.values()
        for name in values
        if name.startswith("act_fnr_")
    }
    if not names:
        return []
    header = ["trial list", "scoring", *(f"miss, FA % at 0.{name.removeprefix('p')}" for name in names)]
    lines = [
        (trial_list, scoring, *(_misses_and_false_acceptances(values, name) for name in names))
        for trial_list, scorings in metrics.items()
        for scoring, values in scorings.items()
    ]
    legend = "miss, FA: of the decisions at the calibrated threshold for this probability of a target trial"
    return ["", *aligned(header, lines, TEXT_COLUMNS), legend]


def _misses_and_false_acceptances(values: Mapping[str, Any], name: str) -> str:
    if f"act_fnr_{name}" not in values:
        return ""
    return f"{values[f'act_fnr_{name}']:.2f} {values[f'act_fpr_{name}']:6.3f}"


def _remarks(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Each remark on an operating point once, whatever the number of trial lists."""
    remarks = (
        values[name]
        for scorings in metrics.values()
        for values in scorings.values()
        for name in values
        if name.startswith("remark_")
    )
    return list(dict.fromkeys(remarks))


def _missing_intervals(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """A line on each trial list without an interval that says why."""
    reasons = {
        (trial_list, values["no_interval"])
        for trial_list, scorings in metrics.items()
        for values in scorings.values()
        if "no_interval" in values
    }
    return [f"{trial_list}: no interval: {reason}" for trial_list, reason in sorted(reasons)]


def _least_and_actual(values: Mapping[str, Any], name: str) -> str:
    """Of a cost such as `dcf_p01` or `cllr`, the least and, where it is known, the actual value."""
    least, actual = f"min_{name}", name if name == "cllr" else f"act_{name}"
    if least not in values:
        return ""
    return f"{values[least]:.4f}" + (f" {values[actual]:.4f}" if actual in values else "")


def _notes(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """A line on each measured list that is not the published one of its name."""
    records = {trial_list: next(iter(scorings.values())) for trial_list, scorings in metrics.items()}
    return {
        name: f"* {name}: not a published list ({record['list_file']}, MD5 {record['list_md5']})"
        for name, record in records.items()
        if not record.get("list_official", True)
    }

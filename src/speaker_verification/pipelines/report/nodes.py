"""Nodes that make results readable; two of them hear recordings, and the report does without."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from speaker_verification.common.errors import DataError, UserError
from speaker_verification.config.phases import PHASES
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.reporting.evaluation import PLAYER_BYTES, Evaluation, render_evaluation
from speaker_verification.reporting.figures.layers import layer_weight_figure
from speaker_verification.reporting.figures.scores import (
    det_figure,
    histogram_figure,
    open_set_figure,
    reliability_figure,
)
from speaker_verification.reporting.layer_weights import LayerWeights
from speaker_verification.reporting.verdict import (
    Difference,
    EvaluatedModel,
    Verdict,
    equal_error_rates,
    unofficial_lists,
)
from speaker_verification.scoring import curves
from speaker_verification.scoring.breakdown import rates_by_group, reliability, worst_trials
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.settings import EmbedSettings, ReportSettings, sets_by_use
from speaker_verification.scoring.summary import Metrics, format_table

logger = logging.getLogger(__name__)


def tabulate_results(metrics: Metrics) -> str:
    """Lay the error rates out as a table, and log it."""
    table = format_table(metrics)
    logger.info("Results\n%s", table)
    return table


def tabulate_det_points(scores: pd.DataFrame, calibration: Mapping[str, Any]) -> pd.DataFrame:
    """Thin the detection error trade-off of every trial list and scoring to a few hundred points."""
    return curves.det_points(scores, Calibration.from_dict(calibration))


def draw_det_curves(det_points: pd.DataFrame, metrics: Metrics, calibration: Mapping[str, Any]) -> Figure:
    """Draw the detection error trade-off of every trial list and scoring."""
    return det_figure(det_points, metrics, Calibration.from_dict(calibration))


def tabulate_histograms(scores: pd.DataFrame, calibration: Mapping[str, Any]) -> pd.DataFrame:
    """Count the scores of targets and non-targets of every trial list and scoring in bins."""
    return curves.score_histograms(scores, Calibration.from_dict(calibration))


def draw_score_histograms(
    histogram_bins: pd.DataFrame, metrics: Metrics, calibration: Mapping[str, Any]
) -> Figure:
    """Draw the scores of targets and non-targets of every trial list and scoring."""
    return histogram_figure(histogram_bins, metrics, Calibration.from_dict(calibration))


def tabulate_reliability(scores: pd.DataFrame, calibration: Mapping[str, Any]) -> pd.DataFrame:
    """Lay the log-likelihood ratios beside those that the labels show."""
    return reliability(scores, Calibration.from_dict(calibration))


def draw_reliability(reliability: pd.DataFrame) -> Figure:
    """Draw the log-likelihood ratios over those that the labels show."""
    return reliability_figure(reliability)


def draw_open_set_curves(open_set_rates: pd.DataFrame) -> Figure:
    """Draw the error rates of identification over the threshold."""
    return open_set_figure(open_set_rates)


def tabulate_rates_by_group(
    scores: pd.DataFrame,
    calibration: Mapping[str, Any],
    embeddings: EmbeddingStore,
    speakers: pd.DataFrame,
    report: ReportSettings,
) -> pd.DataFrame:
    """Lay the error rates out by duration, gender and nationality, where they are known."""
    fitted = Calibration.from_dict(calibration)
    return rates_by_group(scores, fitted, embeddings.utterances, speakers, report)


def list_worst_trials(scores: pd.DataFrame, report: ReportSettings) -> pd.DataFrame:
    """List the lowest targets and the highest non-targets of every trial list."""
    return worst_trials(scores, report.worst_trials)


def draw_learning_curves(*learning_curves: pd.DataFrame) -> Figure:
    """Draw loss and validation error rate over the training phases, whose curves come in their order."""
    from speaker_verification.reporting.figures.training import learning_curve_figure

    return learning_curve_figure(dict(zip(PHASES, learning_curves, strict=True)))


def measure_layer_weights(
    trained_checkpoint: Path,
    embeddings: EmbeddingStore,
    embed: EmbedSettings,
    report: ReportSettings,
    device: str,
) -> LayerWeights:
    """Measure what the evaluated model's layer aggregations pass on of each state of the encoder.

    Where the model or the recordings are not there, the tables are empty.
    """
    if not report.layer_weight_utterances or embeddings.system is not None:
        return LayerWeights.unknown()
    from speaker_verification.common.device import resolve_device
    from speaker_verification.models.speaker_model import SpeakerModel, weights_digest
    from speaker_verification.reporting import layer_weights
    from speaker_verification.training.kept_epochs import evaluated_model

    try:
        folder = evaluated_model(embed, lambda: trained_checkpoint)
        model = SpeakerModel.from_pretrained(folder, resolve_device(device))
        if embeddings.model and embeddings.model != weights_digest(model.state_dict()):
            raise DataError(f"'{folder}' is not the model that was evaluated")
        return layer_weights.measure_layer_weights(
            model, embeddings.utterances, report.layer_weight_utterances
        )
    except UserError as error:
        logger.warning("the weights of the encoder's states are not measured: %s", error)
        return LayerWeights.unknown()


def draw_layer_weights(layer_weights: pd.DataFrame) -> Figure:
    """Draw the mean weights of the encoder's states."""
    return layer_weight_figure(layer_weights)


def encode_players(
    worst_trials: pd.DataFrame, embeddings: EmbeddingStore, report: ReportSettings
) -> dict[str, str]:
    """Encode the recordings of the worst trials that the report is to play, as far as it has room."""
    if not report.players:
        return {}
    if embeddings.system is not None:
        logger.warning("the report has no sound: imported embeddings have no recordings")
        return {}
    from speaker_verification.reporting.players import encode_recordings, sides_of

    first = worst_trials.groupby(["trial_list", "label"], observed=True).head(report.players)
    sides = sides_of(first[["enroll_id", "test_id"]].itertuples(index=False, name=None))
    played = embeddings.utterances.set_index("utterance_id", drop=False).loc[sides]
    try:
        players = encode_recordings(played, PLAYER_BYTES)
    except UserError as error:
        logger.warning("the report has no sound: %s", error)
        return {}
    if len(players) < len(sides):
        logger.warning(
            "the report has room for the sound of %d of %d recordings: lower report.players",
            *(len(players), len(sides)),
        )
    return players


def describe_evaluation(
    run_record: Mapping[str, Any],
    metrics: Metrics,
    calibration: Mapping[str, Any],
    embeddings: EmbeddingStore,
    trained_checkpoint: Path,
    prepare: PrepareSettings,
    embed: EmbedSettings,
) -> dict[str, Any]:
    """Describe recipe, code, model and corpora of the evaluation, beside its error rates."""
    from speaker_verification import __version__
    from speaker_verification.corpora.subsets import subsets_of
    from speaker_verification.training.kept_epochs import evaluated_model

    trained_here = embed.model is None
    tested = list(embeddings.utterances["subset"].unique())
    synthetic = prepare.mirror is None and prepare.synthetic is not None
    model = None
    if embeddings.system is not None:  # neither model nor corpora are of this project
        synthetic, corpora = False, {"trials": tested}
        run_record = _of_scoring_alone(run_record)
    else:
        subsets = {
            "trained on": subsets_of(prepare.training_set) if trained_here else [],
            **{
                use: subsets_of(name)
                for use, name in sets_by_use(embed, calibration.get("adaptation")).items()
            },
            "trials": tested,
        }
        corpora = {use: _corpora_of(names, synthetic) for use, names in subsets.items()}
        try:
            folder = evaluated_model(embed, lambda: trained_checkpoint)
            model = EvaluatedModel.of(folder, embeddings.embeddings.shape[1], trained_here)
        except UserError as error:
            logger.warning("the report does not know the model: %s", error)
    verdict = Verdict(
        recipe=run_record["recipe"],
        environment=run_record["environment"],
        commit=run_record["commit"],
        clean=run_record["clean"],
        reported_by=run_record["reported_by"],
        version=__version__,
        llr=calibration["llr"],
        model=model,
        corpora=corpora,
        synthetic=synthetic,
        unofficial=unofficial_lists(metrics),
        differences=[Difference(**difference) for difference in run_record["differences"]],
        parameters=run_record["parameters"],
        system=embeddings.system,
    )
    return {"eer": equal_error_rates(metrics), **verdict.to_dict()}


def _of_scoring_alone(run_record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that scored imported embeddings: no recipe, and the parameters of `score`."""
    differences = [one for one in run_record["differences"] if one["parameter"].startswith("score.")]
    parameters = {
        name: value for name, value in run_record["parameters"].items() if name.startswith("score.")
    }
    return {**run_record, "recipe": None, "differences": differences, "parameters": parameters}


def _corpora_of(subsets: Iterable[str], synthetic: bool) -> list[str]:
    """Corpora of subsets with the subsets in brackets."""
    from speaker_verification.corpora.registry import subsets_by_corpus

    kind = "synthetic " if synthetic else ""
    return [f"{kind}{name} ({', '.join(parts)})" for name, parts in subsets_by_corpus(subsets).items()]


def write_report(
    verdict: Mapping[str, Any],
    metrics: Metrics,
    calibration: Mapping[str, Any],
    det_points: pd.DataFrame,
    histogram_bins: pd.DataFrame,
    reliability: pd.DataFrame,
    rates_by_group: pd.DataFrame,
    worst_trials: pd.DataFrame,
    open_set_rates: pd.DataFrame,
    layer_weights: pd.DataFrame,
    layer_weights_over_time: pd.DataFrame,
    players: Mapping[str, str],
    *learning_curves: pd.DataFrame,
) -> str:
    """Write everything on one page; the learning curves come in the order of the phases."""
    described = {name: value for name, value in verdict.items() if name != "eer"}
    evaluation = Evaluation(
        Verdict.from_dict(described),
        metrics,
        Calibration.from_dict(calibration),
        det_points,
        histogram_bins,
        reliability,
        rates_by_group,
        worst_trials,
        open_set_rates,
        layer_weights,
        layer_weights_over_time,
        dict(zip(PHASES, learning_curves, strict=True)),
        players,
    )
    return render_evaluation(evaluation)

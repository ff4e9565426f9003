"""Error rates as MLflow shows them: names of metrics, headline figures, descriptions and a view of the list.

MLflow's charts are grouped by what stands in front of the last slash of a metric's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

EER = "eer"
MAX_HEADLINES = 12  # metrics of an experiment's run
COMPARED = (EER, "min_dcf")
COMPARED_FIGURES = {"eer": EER, "deviation": "eer_deviation", "low": "eer_low", "high": "eer_high"}
DECIMALS = 4
TRAINING = "training"  # group of the metrics that are of no trial list
VIEW = "error-rates"  # key of the view in addresses
KIND_TAG, MACHINE_LEARNING = "mlflow.experimentKind", "custom_model_development"
PRIMARY_TAG = "mlflow.experiment.primaryMetric.name"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
METRIC_WIDTH = 140  # pixels
FIRST_STATE: dict[str, Any] = {
    "selectedColumns": ["attributes.`Dataset`", "tags.`env`"],
    "columnOrder": ["attributes.`Run Name`"],
    "columnWidths": {"attributes.`Run Name`": 280},
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
}


def metric_name(figure: str, trial_list: str, scoring: str) -> str:
    """Name of an evaluation's figure: `eer/vox1_o/cosine`, and `vox1_o/cosine/threshold_p01` of a detail.

    Equal error rates and detection costs are compared between runs; details stand together, after them.
    """
    compared = figure.startswith(COMPARED)
    return f"{figure}/{trial_list}/{scoring}" if compared else f"{trial_list}/{scoring}/{figure}"


def epoch_metric_name(name: str) -> str:
    """Name of a metric of the learning curve: `eer/validation`, or `training/loss` where it is of no list."""
    trial_list, _, figure = name.rpartition(".")
    return f"{figure}/{trial_list}" if trial_list else f"{TRAINING}/{figure}"


def numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """All figures of an evaluation by the names of their metrics, rounded for MLflow's columns."""
    for trial_list, scorings in metrics.items():
        for scoring, values in scorings.items():
            for figure, value in values.items():
                if isinstance(value, float):
                    yield metric_name(figure, trial_list, scoring), round(value, DECIMALS)


def compared_numbers(rates: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """Mean equal error rates of compared systems, with deviation and interval, by the names of their metrics.

    Args:
        rates: table of `reporting.comparison.tabulate_rates`.
    """
    for row in rates.to_dict("records"):
        for figure, name in COMPARED_FIGURES.items():
            if pd.notna(row[figure]):
                yield metric_name(name, row["trial_list"], row["system"]), round(row[figure], DECIMALS)


def headlines(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Equal error rates by trial list, by the names of their metrics."""
    rates: dict[str, dict[str, float]] = {}
    for name, value in numbers(metrics):
        if (trial_list := headline_list(name)) is not None:
            rates.setdefault(trial_list, {})[name] = value
    return rates


def headline_list(name: str) -> str | None:
    """Trial list of a headline metric; None for other metrics."""
    figure, *lists = name.split("/")
    return lists[0] if figure == EER and len(lists) == 2 else None


def first_rate(metrics: Mapping[str, Any]) -> str:
    """First equal error rate as the end of a run's name: `8.89 % vox1_o`."""
    for trial_list, scorings in metrics.items():
        for values in scorings.values():
            if EER in values:
                return f"{values[EER]:.2f} % {trial_list}"
    return ""


def description(metrics: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """Description of a run in Markdown: error rates with their intervals, and where files are.

    Args:
        metrics: what `compute_metrics` returns.
        places: paths by what they hold.
    """
    every = [values for scorings in metrics.values() for values in scorings.values()]
    costs = list(dict.fromkeys(name for values in every for name in values if name.startswith("min_dcf_p")))
    header = ["trial list", "scoring", "EER %", "95 % interval", *map(_cost_title, costs), "Cllr"]
    rows = [
        [trial_list, scoring, _number(values.get(EER), 2), _interval(values.get("eer_interval"))]
        + [_number(values.get(name), 3) for name in (*costs, "cllr")]
        for trial_list, scorings in metrics.items()
        for scoring, values in scorings.items()
    ]
    parts = ["\n".join(_table(header, rows))]
    if unpublished := [name for name, scorings in metrics.items() if _is_unpublished(scorings)]:
        parts.append(f"Not the published list of that name: {', '.join(unpublished)}.")
    if places:
        parts.append("\n".join(f"- {what}: `{path}`" for what, path in places.items()))
    return "\n\n".join(parts)


def view_tags(tags: Mapping[str, str], metrics: Sequence[str] = ()) -> dict[str, str]:
    """Tags that an experiment lacks for its list to show metrics in the view of `Store.page`.

    Args:
        tags: tags of the experiment; what somebody has changed in the view stays.
        metrics: names of metrics, the most important one first.
    """
    named = [f"metrics.`{name}`" for name in metrics]
    state = _state(tags.get(VIEW_TAG))
    lacking = {} if KIND_TAG in tags else {KIND_TAG: MACHINE_LEARNING}
    if metrics and PRIMARY_TAG not in tags:
        lacking[PRIMARY_TAG] = metrics[0]
    if state is None or not set(named) <= set(state["selectedColumns"]):
        state = state or FIRST_STATE
        for columns in ("selectedColumns", "columnOrder"):
            state = {**state, columns: [*dict.fromkeys([*state.get(columns, ()), *named])]}
        widths = {**dict.fromkeys(named, METRIC_WIDTH), **state.get("columnWidths", {})}
        state = {**state, "columnWidths": widths}
        saved = {"name": "Error rates", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
        lacking[VIEW_TAG] = json.dumps(saved)
    return lacking


def _state(saved: str | None) -> dict[str, Any] | None:
    try:
        state = json.loads(json.loads(saved or "")["state"])
        return state if isinstance(state["selectedColumns"], list) else None
    except (ValueError, LookupError, TypeError):
        return None


def _is_unpublished(scorings: Mapping[str, Any]) -> bool:
    return any(values.get("list_official") is False for values in scorings.values())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(header)
    yield "| --- " * len(header) + "|"
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    """Row with space behind its cells, since MLflow leaves none between columns."""
    return f"| {' | '.join(f'{cell}&emsp;' for cell in cells)} |"


def _cost_title(name: str) -> str:
    """`min DCF 0.01` of `min_dcf_p01`."""
    return f"min DCF 0.{name.removeprefix('min_dcf_p')}"


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if not interval else "{:.2f} to {:.2f}".format(*interval)

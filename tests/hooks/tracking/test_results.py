"""Names, headline figures, descriptions and the view of the list of runs."""

from __future__ import annotations

import json
from typing import Any

from speaker_verification.hooks.tracking.results import (
    VIEW_TAG,
    description,
    epoch_metric_name,
    first_rate,
    headline_list,
    headlines,
    numbers,
    view_tags,
)

METRICS: dict[str, Any] = {
    "vox1_o": {
        "cosine": {"eer": 8.88889, "eer_interval": [4.2, 13.25], "min_dcf_p01": 0.91, "threshold_p01": 3.5},
        "qmf": {"eer": 7.0, "eer_interval": None, "min_dcf_p01": 0.8333, "cllr": 0.25, "num_target": 240},
    }
}


def test_metrics_are_named_by_figure_list_and_scoring() -> None:
    assert dict(numbers(METRICS)) == {
        "eer/vox1_o/cosine": 8.8889,
        "min_dcf_p01/vox1_o/cosine": 0.91,
        "vox1_o/cosine/threshold_p01": 3.5,
        "eer/vox1_o/qmf": 7.0,
        "min_dcf_p01/vox1_o/qmf": 0.8333,
        "vox1_o/qmf/cllr": 0.25,
    }
    assert headlines(METRICS) == {"vox1_o": {"eer/vox1_o/cosine": 8.8889, "eer/vox1_o/qmf": 7.0}}
    assert [headline_list(name) for name in ("eer/vox1_o/qmf", "vox1_o/qmf/cllr", "eer/validation")] == [
        "vox1_o",
        None,
        None,
    ]
    assert first_rate(METRICS) == "8.89 % vox1_o"


def test_metrics_of_an_epoch_stand_beside_those_of_other_lists() -> None:
    names = ("validation.eer", "average.validation.min_dcf_p01", "loss")
    assert [epoch_metric_name(name) for name in names] == [
        "eer/validation",
        "min_dcf_p01/average.validation",
        "training/loss",
    ]


def test_a_description_is_a_table_with_intervals_and_says_where_files_are() -> None:
    written = description(METRICS, {"model": "data/model"}).replace("&emsp;", "")
    assert written.splitlines() == [
        "| trial list | scoring | EER % | 95 % interval | min DCF 0.01 | Cllr |",
        "| --- | --- | --- | --- | --- | --- |",
        "| vox1_o | cosine | 8.89 | 4.20 to 13.25 | 0.910 |  |",
        "| vox1_o | qmf | 7.00 |  | 0.833 | 0.250 |",
        "",
        "- model: `data/model`",
    ]


def test_a_description_names_lists_that_are_not_the_published_ones() -> None:
    official = {"eer": 1.0, "list_official": True}
    metrics = {"vox1_o": {"qmf": {**official, "list_official": False}}, "vox1_e": {"qmf": official}}
    assert "Not the published list of that name: vox1_o." in description(metrics, {})
    assert "Not the published" not in description({"own_list": {"qmf": {"eer": 1.0}}}, {})


def test_a_view_gains_columns_and_keeps_what_somebody_has_changed() -> None:
    def state_of(tags: dict[str, str]) -> dict[str, Any]:
        return dict(json.loads(json.loads(tags[VIEW_TAG])["state"]))

    tags = view_tags({}, ["eer/a/cosine"])
    assert tags["mlflow.experiment.primaryMetric.name"] == "eer/a/cosine"
    assert state_of(tags)["selectedColumns"][-1] == "metrics.`eer/a/cosine`"
    assert not view_tags(tags, ["eer/a/cosine"])
    changed = json.loads(tags[VIEW_TAG])
    changed["state"] = json.dumps({"selectedColumns": ["attributes.`User`"], "orderByKey": "tags.`x`"})
    after = view_tags(tags | {VIEW_TAG: json.dumps(changed)}, ["eer/b/cosine"])
    assert state_of(after)["selectedColumns"] == ["attributes.`User`", "metrics.`eer/b/cosine`"]
    assert state_of(after)["orderByKey"] == "tags.`x`"
    assert list(after) == [VIEW_TAG]

"""The scoring of docs/extending/scoring.md, from the settings to every result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.tables import TRIALS
from speaker_verification.pipelines.export.nodes import export_scores
from speaker_verification.pipelines.report.nodes import (
    draw_det_curves,
    draw_score_histograms,
    tabulate_det_points,
    tabulate_histograms,
    tabulate_reliability,
    tabulate_results,
)
from speaker_verification.pipelines.score.nodes import (
    fit_scorings,
    measure_error_rates,
    score_trials,
    summarise_cohort,
)
from speaker_verification.scoring import EmbeddingStore
from speaker_verification.scoring.settings import ScoreSettings

PAGE = (Path(__file__).parents[2] / "docs" / "extending" / "scoring.md").read_text()
NAMES = ["cosine", "as_norm", "qmf", "euclidean"]


@pytest.fixture
def settings(import_folder: Path) -> ScoreSettings:
    """Settings of the page, with the package of the page on the path."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (parameters,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert code.count("\n") < 40
    package = import_folder / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "scorings.py").write_text(code)
    values: dict[str, Any] = yaml.safe_load(parameters)["score"]
    return ScoreSettings.parse({**values, "top_n": 3, "calibration_trials": 200}, "score")


def store_of(num_speakers: int, prefix: str, seed: int) -> EmbeddingStore:
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), 4)
    rows = rng.normal(size=(num_speakers, 6))[speakers] + 0.5 * rng.normal(size=(len(speakers), 6))
    ids = [f"{prefix}{speaker}/s/{place % 4}.wav" for place, speaker in enumerate(speakers)]
    utterances = pd.DataFrame({"utterance_id": ids, "speaker_id": [name.split("/")[0] for name in ids]})
    utterances = utterances.assign(
        session_id="s", subset="vox1-test", path="", num_samples=1, duration_seconds=2.0
    )
    return EmbeddingStore(rows.astype(np.float32), utterances)


def trials_of(store: EmbeddingStore) -> pd.DataFrame:
    first, second = np.triu_indices(len(store.utterances), k=1)
    ids, speakers = (store.utterances[name].to_numpy() for name in ("utterance_id", "speaker_id"))
    label = (speakers[first] == speakers[second]).astype(int)
    columns = {"trial_list": "mine", "label": label, "enroll_id": ids[first], "test_id": ids[second]}
    return TRIALS.conform(pd.DataFrame(columns))


def test_documented_scoring_appears_in_every_result(settings: ScoreSettings) -> None:
    cohort_set, store = store_of(12, "c", seed=1), store_of(5, "t", seed=2)
    trials = trials_of(store)
    cohort = summarise_cohort(cohort_set, store, settings)
    calibration, fitted = fit_scorings(
        cohort_set, cohort_set, cohort, cohort_set.utterances.iloc[:0], settings, 0, "cpu"
    )
    scores = score_trials(trials, store, cohort, calibration, fitted, settings, "cpu")
    rows = [store.rows_of(trials[side]) for side in ("enroll_id", "test_id")]
    apart = store.embeddings[rows[0]].astype(float) - store.embeddings[rows[1]]
    np.testing.assert_allclose(scores["euclidean"], -(apart**2).sum(axis=1), rtol=1e-9)

    metrics = measure_error_rates(scores, calibration, store, pd.DataFrame(columns=["trial_list"]), settings)
    assert list(metrics["mine"]) == NAMES
    assert 0 < metrics["mine"]["euclidean"]["eer"] < 40
    assert " euclidean " in tabulate_results(metrics)
    curves = draw_det_curves(tabulate_det_points(scores, calibration), metrics, calibration)
    assert [curve.name for curve in curves.data if curve.showlegend] == NAMES
    histograms = draw_score_histograms(tabulate_histograms(scores, calibration), metrics, calibration)
    assert "euclidean" in [note.text for note in histograms.layout.annotations]
    assert tabulate_reliability(scores, calibration)["scoring"].unique().tolist() == NAMES
    exported = export_scores(scores, calibration)
    assert list(exported) == [f"mine.{name}" for name in (*NAMES, "llr")]
    np.testing.assert_array_equal(exported["mine.euclidean"]["score"], scores["euclidean"])


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"scorings": ["cosin", "qmf"]}, r"score\.scorings.*'cosin'.*'cosine'.*cosine, as_norm, qmf"),
        ({"scorings": ["cosine"]}, r"llr.*'qmf'.*cosine"),
        ({"scorings": ["qmf", "qmf"]}, r"score\.scorings.*'qmf'"),
        ({"scorings": []}, r"score\.scorings"),
        ({"custom": {"my_package.scorings.Euclidean": {}}}, r"score\.custom.*Euclidean"),
        (
            {
                "scorings": ["qmf", "my_package.scorings.Euclidean"],
                "custom": {"my_package.scorings.Euclidean": {"powr": 2}},
            },
            r"score\.custom.*Euclidean.powr.*power",
        ),
    ],
)
def test_scorings_that_do_not_fit_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        ScoreSettings.parse(values, "score")

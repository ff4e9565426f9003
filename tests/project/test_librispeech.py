"""The road over LibriSpeech, in the environment of that name with a tiny encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from tests.support.corpora import LIBRISPEECH, write_librispeech_mirror
from tests.support.project import copy_project, kedro_in


def test_the_road_over_librispeech_ends_in_error_rates_of_its_lists(tmp_path: Path) -> None:
    mirror = write_librispeech_mirror(tmp_path / "mirror")
    sizes = {"target_trials": 12, "nontarget_trials": 24}
    folder = copy_project(tmp_path, "librispeech", prepare={"mirror": str(mirror), "drawn_trials": sizes})
    run = kedro_in(folder)("run")
    assert run.returncode == 0, run.stdout
    tables = folder / "data/tiny/03_primary"
    genders = pd.read_parquet(tables / "speakers.parquet").set_index("speaker_id")["gender"]
    assert genders.value_counts().to_dict() == {"f": 8, "m": 8}
    trials = pd.read_parquet(tables / "trials.parquet")
    enroll, test = (trials[side].str.split("/", expand=True) for side in ("enroll_id", "test_id"))
    assert ((enroll[0] == test[0]) == (trials["label"] == 1)).all()
    assert (enroll[1] != test[1]).all()  # across chapters
    same_sex = trials["trial_list"].str.endswith("_same_sex")
    assert (genders[enroll[0]].to_numpy() == genders[test[0]].to_numpy())[same_sex].all()
    trained = set(pd.read_parquet(tables / "training_utterances.parquet")["speaker_id"])
    assert len(trained) == len(LIBRISPEECH["train-clean-100"]) - 3
    assert not trained & {*enroll[0], *test[0]}
    newest = max(folder.glob("data/tiny/08_reporting/metrics.json/*/metrics.json"))
    metrics = json.loads(newest.read_text())
    assert list(metrics) == [
        "librispeech_dev_clean",
        "librispeech_dev_clean_same_sex",
        "librispeech_test_clean",
        "librispeech_test_clean_same_sex",
    ]
    for scorings in metrics.values():
        assert (scorings["qmf"]["num_target"], scorings["qmf"]["num_nontarget"]) == (12, 24)

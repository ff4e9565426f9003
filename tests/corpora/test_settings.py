"""Parameters of data preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from speaker_verification.common.errors import ParameterError
from speaker_verification.corpora.settings import PrepareSettings

BASE = Path(__file__).parents[2] / "conf" / "base" / "parameters_prepare.yml"


def test_the_parameter_file_names_every_parameter_with_its_default() -> None:
    values = yaml.safe_load(BASE.read_text())["prepare"]
    assert PrepareSettings.parse(values, "prepare") == PrepareSettings()
    assert set(values) == set(PrepareSettings.model_fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"miror": "x"}, r"unknown parameter 'prepare\.miror': did you mean 'prepare.mirror'"),
        (
            {"synthetic": {"session": 2}},
            r"'prepare\.synthetic\.session': did you mean 'prepare.synthetic.sessions'",
        ),
        ({"training_set": "voxceleb2"}, r"'prepare\.training_set': .*did you mean 'voxceleb2-\w+'"),
        (
            {"subsets": ["vox3-dev"]},
            r"'prepare\.subsets\.0': unknown subset 'vox3-dev': did you mean 'vox\d-dev'",
        ),
        ({"subsets": ["musan"]}, r"'prepare\.subsets\.0': unknown subset 'musan'"),
        ({"trial_lists": ["vox1_x"]}, r"'prepare\.trial_lists\.0': unknown trial list 'vox1_x'.*'vox1_\w'"),
        ({"other_corpora": ["absent_package.MINE"]}, r"'prepare\.other_corpora\.0': .*'absent_package'"),
        ({"trial_lists": []}, "trial_lists and other_trial_lists are both empty"),
        ({"max_rejected_fraction": 1.5}, r"'prepare\.max_rejected_fraction' is 1\.5"),
        ({"subsets": ["vox1-test", "vox2-dev"]}, "the trial list vox1_e needs vox1-dev: add it to subsets"),
        ({"subsets": ["vox1-dev", "vox1-test"]}, "training_set 'voxceleb2-dev' needs vox2-dev"),
        ({"training_set": "voxceleb12-dev"}, "holds the speakers of vox1_e, vox1_h, vox1_e_original"),
        ({"trial_lists": ["librispeech_test_clean"]}, "needs librispeech-test-clean: add it to subsets"),
        (
            {"drawn_trials": {"target_trial": 5}},
            "did you mean 'prepare.drawn_trials.target_trials'",
        ),
        ({"other_trial_lists": {"vox1_e": "x.txt"}}, "vox1_e has a meaning of its own"),
        ({"other_trial_lists": {"validation": "x.txt"}}, "validation has a meaning of its own"),
        ({"other_trial_lists": {"my list": "x.txt"}}, r"'prepare\.other_trial_lists\.my list"),
    ],
)
def test_impossible_parameters_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        PrepareSettings.parse(values, "prepare")


@pytest.mark.parametrize(
    "values",
    [
        {"subsets": ["vox1-test", "vox2-dev"], "trial_lists": ["vox1_o", "vox1_o_original"]},
        {"training_set": "voxceleb12-dev", "allow_seen_speakers": True},
        {"training_set": "voxceleb12-dev", "trial_lists": ["vox1_o"]},
        {"trial_lists": [], "other_trial_lists": {"mine": "mine.txt"}},
        {
            "subsets": ["librispeech-train-clean-100", "librispeech-test-clean", "vox1-test"],
            "training_set": "librispeech-train-clean-100",
            "trial_lists": ["vox1_o", "librispeech_test_clean_same_sex"],
        },
    ],
)
def test_possible_combinations_are_taken(values: dict[str, Any]) -> None:
    PrepareSettings.parse(values, "prepare")

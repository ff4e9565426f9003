from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from speaker_verification.audio.files import read_audio
from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.scoring.metrics import equal_error_rate, min_detection_cost
from speaker_verification.training.validation import TrialSet, validate
from tests.support.training import MODEL


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(MODEL.frontend, folder, seed=1)
    return folder


def test_validation_is_centred_on_the_held_out_utterances_alone(
    utterances: pd.DataFrame, trials: pd.DataFrame, encoder: Path
) -> None:
    torch.manual_seed(0)
    model = SpeakerModel.from_encoder(encoder, MODEL)
    is_held_out = trials["enroll_id"].str[:7].isin(["id00000", "id00001", "id00002"])
    lists = {"validation": trials[is_held_out], "vox1_o": trials.assign(trial_list="vox1_o")}
    held_out, monitored = (TrialSet.of(of_list, utterances) for of_list in lists.values())
    assert len(held_out.utterances) < len(monitored.utterances)
    embeddings = {
        row.utterance_id: model.embed(torch.from_numpy(read_audio(row.path))[None])[0].numpy().astype(float)
        for row in utterances.itertuples()
    }
    mean = np.mean([embeddings[name] for name in held_out.utterances["utterance_id"]], axis=0)
    rates = validate(model, held_out, monitored)
    for name, of_list in lists.items():
        scores = []
        for trial in of_list.itertuples():
            enroll, test = embeddings[trial.enroll_id] - mean, embeddings[trial.test_id] - mean
            scores.append(enroll @ test / np.sqrt((enroll @ enroll) * (test @ test)))
        assert rates[f"{name}.eer"] == pytest.approx(equal_error_rate(scores, of_list["label"])[0])
        expected = min_detection_cost(scores, of_list["label"], 0.01)[0]
        assert rates[f"{name}.min_dcf_p01"] == pytest.approx(expected)


def test_trial_sets_join_without_repeating_utterances(utterances: pd.DataFrame, trials: pd.DataFrame) -> None:
    one = TrialSet.of(trials.head(3), utterances)
    joined = one.joined(TrialSet.of(trials.tail(4), utterances))
    assert len(joined.trials) == 7
    assert joined.utterances["utterance_id"].is_unique
    assert set(joined.utterances["utterance_id"]) == {*joined.trials["enroll_id"], *joined.trials["test_id"]}

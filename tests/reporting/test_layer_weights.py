from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.models import SpeakerModel
from speaker_verification.reporting.layer_weights import STEPS_OVER_TIME, measure_layer_weights
from tests.support.tiny_models import TINY_WAVLM, tiny_settings


def write_utterances(folder: Path, seconds: list[float]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for place, length in enumerate(seconds):
        path = folder / f"{place}.wav"
        soundfile.write(path, rng.normal(0, 0.1, int(length * SAMPLE_RATE)), SAMPLE_RATE, subtype="PCM_16")
        rows.append((f"id{place}/s/1.wav", str(path), int(length * SAMPLE_RATE)))
    return pd.DataFrame(rows, columns=["utterance_id", "path", "num_samples"])


def model_of(encoder_folder: Path, aggregation: str, network: str) -> SpeakerModel:
    torch.manual_seed(1)
    return SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM, aggregation, network)).eval()


def test_learnt_weights_are_the_same_over_all_frames_and_of_each_sequence(
    encoder_folder: Path, tmp_path: Path
) -> None:
    model = model_of(encoder_folder, "weighted_sum", "mhfa")
    with torch.no_grad():
        model.layer_aggregation["key"].logits.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    mean, over_time = measure_layer_weights(model, write_utterances(tmp_path, [0.5, 0.5]), 2)
    key, value = (mean[mean["sequence"] == sequence] for sequence in ("key", "value"))
    assert key["state"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(key[["weight", "low", "high"]].T, [[0.1, 0.2, 0.3, 0.4]] * 3, rtol=1e-5)
    np.testing.assert_allclose(value["weight"], 0.25, rtol=1e-5)
    assert over_time.empty


def test_weights_that_depend_on_the_input_are_means_over_heads_frames_and_utterances(
    encoder_folder: Path, tmp_path: Path
) -> None:
    model = model_of(encoder_folder, "lap", "astp")
    utterances = write_utterances(tmp_path, [0.5, 0.8, 3.0])
    mean, over_time = measure_layer_weights(model, utterances, 3)
    each = [
        model.attention(soundfile.read(path, dtype="float32")[0])["layer_aggregation.frames"][0].numpy()
        for path in utterances["path"]
    ]  # (heads, T, L+1)
    np.testing.assert_allclose(
        mean["weight"], np.mean([weights.mean(axis=(0, 1)) for weights in each], axis=0), rtol=1e-5
    )
    frames = np.concatenate([weights.mean(axis=0) for weights in each])
    np.testing.assert_allclose(mean["low"], np.percentile(frames, 10, axis=0), rtol=1e-5)
    assert over_time["utterance_id"].unique().tolist() == ["id0/s/1.wav", "id2/s/1.wav"]
    first = over_time[over_time["utterance_id"] == "id0/s/1.wav"]
    np.testing.assert_allclose(first["weight"], each[0].mean(axis=0).ravel(), rtol=1e-5)  # frame by frame
    last = over_time[over_time["utterance_id"] == "id2/s/1.wav"].groupby("seconds")["weight"]
    assert last.ngroups == STEPS_OVER_TIME
    assert 0 < last.mean().index[0] < last.mean().index[-1] < 3.0


@pytest.mark.parametrize(("asked", "measured"), [(1, 1), (5, 3)])
def test_utterances_are_spread_over_the_table_and_each_is_heard_once(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, measured: int
) -> None:
    model, heard = model_of(encoder_folder, "lap", "astp"), []
    attention = model.attention

    def remember(waveform: np.ndarray) -> dict[str, torch.Tensor]:
        heard.append(len(waveform))
        return attention(waveform)

    monkeypatch.setattr(model, "attention", remember)
    measure_layer_weights(model, write_utterances(tmp_path, [0.5, 0.6, 0.7]), asked)
    assert len(heard) == len(set(heard)) == measured

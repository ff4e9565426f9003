from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speaker_verification.audio.augmentation import Augmentation, AugmentationSettings, Augmenter
from speaker_verification.audio.batched_augmentation import augment_batch, collate
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.tables import NOISE_CLIPS, RIRS

NUM_SAMPLES = 1200


@pytest.fixture
def catalogs(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)

    def write(name: str, num_samples: int, amplitude: float) -> list[object]:
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, amplitude * rng.standard_normal(num_samples), SAMPLE_RATE, subtype="FLOAT")
        return [name, name.split("_")[0], str(path), num_samples, 1]

    clips = [write("noise_a", 500, 0.3), write("music_a", 3000, 0.02), write("speech_a", 900, 0.1)]
    rooms = [write("real_a", 300, 1.0), write("simulated_b", 5, 0.2), write("real_c", 2000, 0.5)]
    return (
        NOISE_CLIPS.conform(pd.DataFrame(clips, columns=NOISE_CLIPS.required)),
        RIRS.conform(pd.DataFrame(rooms, columns=RIRS.columns.names)),
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"normalise_peak": True}, {"one_snr": True}, {"one_snr": True, "standardise": True}],
    ids=lambda changes: ", ".join(changes),
)
@pytest.mark.parametrize("probability", [0.0, 0.6, 1.0])
def test_a_batch_is_augmented_as_its_crops_would_be_one_by_one(
    catalogs: tuple[pd.DataFrame, pd.DataFrame], changes: dict[str, bool], probability: float
) -> None:
    settings = AugmentationSettings.parse({"probability": probability, **changes}, "")
    augmenter = Augmenter(*catalogs, settings)
    rng = np.random.default_rng(1)
    crops = rng.standard_normal((60, NUM_SAMPLES)).astype(np.float32) * 10 ** rng.uniform(-3, 0, (60, 1))
    crops = (crops + 0.01).astype(np.float32)
    crops[3:9] = 0.0
    drawn = [augmenter.draw(NUM_SAMPLES, rng) for _ in crops]
    if probability == 1:
        assert len({augmentation.kind for augmentation in drawn if augmentation is not None}) == 5
    one_by_one = np.stack([augmenter.apply(crop, each) for crop, each in zip(crops, drawn, strict=True)])
    before = torch.from_numpy(crops.copy())
    together = augment_batch(before, collate(drawn, NUM_SAMPLES, settings))
    assert together.dtype == torch.float32
    atol = 5e-6 if settings.standardise else 1e-6  # quiet crops become loud
    np.testing.assert_allclose(together.numpy(), one_by_one, rtol=1e-5, atol=atol)
    assert torch.equal(before, torch.from_numpy(crops))  # the batch that comes in stays as it is


def test_by_hand_one_echo_and_one_mixture() -> None:
    waveforms = torch.zeros(3, 8)
    waveforms[:, 0] = 1.0
    echo = Augmentation("reverb", response=np.array([0, 0, 0.5], np.float32))
    noise = np.zeros(8, np.float32)
    noise[4] = 2.0
    twice = Augmentation("television", noises=(noise, noise))
    augmented = augment_batch(waveforms, collate([echo, None, twice], 8, AugmentationSettings()))
    np.testing.assert_allclose(augmented[0], [0, 0, 0.5, 0, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(augmented[1], waveforms[1])
    first = 2 * np.sqrt(1 / 8 + 1e-4)
    second = 2 * np.sqrt((1 + first**2) / 8 + 1e-4)
    np.testing.assert_allclose(augmented[2], [1, 0, 0, 0, first + second, 0, 0, 0], rtol=1e-6)

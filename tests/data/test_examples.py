from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import soundfile

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.speed import change_speed
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.data.examples import TrainingExamples

CROP_SECONDS = 0.05
CROP_SAMPLES = 800
FACTORS = (1.0, 1.0, 1.0, 0.9, 1.1)


def write(path: Path, samples: npt.NDArray[np.floating]) -> str:
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    return str(path)


def utterance_table(folder: Path, waves: dict[str, npt.NDArray[np.floating]]) -> pd.DataFrame:
    """Waves by SPEAKER/SESSION/UTTERANCE.wav."""
    rows = [
        [
            name,
            *name.split("/")[:2],
            "vox2-dev",
            write(folder / name.replace("/", "-"), wave),
            len(wave),
            len(wave) / SAMPLE_RATE,
        ]
        for name, wave in waves.items()
    ]
    return UTTERANCES.conform(pd.DataFrame(rows, columns=UTTERANCES.required))


@pytest.fixture
def utterances(tmp_path: Path) -> pd.DataFrame:
    """Six utterances of three speakers, not in order; a ramp each, so that samples tell their place."""
    names = ["c/s/1.wav", "a/s/1.wav", "b/s/1.wav", "a/t/2.wav", "c/t/2.wav", "b/t/2.wav"]
    return utterance_table(tmp_path, {name: np.arange(3000 + at) / 4096 for at, name in enumerate(names)})


@pytest.fixture
def augmenter(catalogs: tuple[pd.DataFrame, pd.DataFrame]) -> Augmenter:
    return Augmenter(*catalogs, AugmentationSettings())


def test_labels_are_ranks_of_sorted_speakers(utterances: pd.DataFrame) -> None:
    examples = TrainingExamples(utterances, None, CROP_SECONDS, [1.0], seed=0)
    assert examples.speaker_ids == ["a", "b", "c"]
    assert (examples.num_speakers, examples.num_classes, len(examples)) == (3, 3, 6)
    assert [examples[0, row, CROP_SAMPLES][1] for row in range(6)] == [2, 0, 1, 0, 2, 1]
    assert [examples[0, row, CROP_SAMPLES][2] for row in range(6)] == list(range(6))


def test_each_distinct_speed_is_a_speaker_of_its_own(utterances: pd.DataFrame) -> None:
    examples = TrainingExamples(utterances, None, CROP_SECONDS, FACTORS, seed=0)
    assert (examples.num_speakers, examples.num_classes) == (3, 9)
    steps_and_labels = []
    for number in range(400):
        wave, label, _ = examples[number, 1, CROP_SAMPLES]  # speaker a, a ramp: its slope tells the speed
        slope = float(wave[500] - wave[100]) / 400 * 4096
        steps_and_labels.append((round(slope, 2), label))
    counts = Counter(steps_and_labels)
    assert set(counts) == {(1.0, 0), (0.9, 3), (1.1, 6)}
    assert abs(counts[1.0, 0] - 240) < 3.3 * np.sqrt(400 * 0.6 * 0.4)
    assert abs(counts[0.9, 3] - 80) < 3.3 * np.sqrt(400 * 0.2 * 0.8)


def test_the_row_tells_the_speed_where_every_utterance_is_taken_at_every_one(
    utterances: pd.DataFrame,
) -> None:
    factors = (1.0, 0.9, 1.1)
    examples = TrainingExamples(utterances, None, CROP_SECONDS, factors, seed=0, every_speed=True)
    assert (len(examples), examples.num_classes) == (6, 9)
    for speed, factor in enumerate(factors):
        for utterance, speaker in enumerate([2, 0, 1, 0, 2, 1]):
            wave, label, row = examples[4, 6 * speed + utterance, CROP_SAMPLES]
            assert (label, row) == (speaker + 3 * speed, 6 * speed + utterance)
            assert float(wave[500] - wave[100]) / 400 * 4096 == pytest.approx(factor, abs=1e-3)
    assert examples.describe((4, 15, CROP_SAMPLES)).startswith("a/t/2.wav (crop from sample ")


def test_an_example_has_the_length_that_is_asked_for(utterances: pd.DataFrame) -> None:
    examples = TrainingExamples(utterances, None, (0.05, 0.1), [1.0], seed=3)
    for length in (800, 1111, 1600, 4000):
        wave = examples[2, 0, length][0].numpy() * 4096
        assert wave.shape == (length,)
        np.testing.assert_array_equal(wave, np.resize(np.arange(wave[0], 3000)[:length], length))
    middle = examples.clean_crop(0, label=2) * 4096
    np.testing.assert_array_equal(middle, np.arange(700, 2300))


def test_crops_start_evenly_over_the_utterance(utterances: pd.DataFrame) -> None:
    examples = TrainingExamples(utterances, None, CROP_SECONDS, [1.0], seed=3)
    crops = [examples[number, 0, CROP_SAMPLES][0].numpy() for number in range(500)]
    starts = np.array([crop[0] * 4096 for crop in crops])
    for crop in crops:
        assert crop.dtype == np.float32
        np.testing.assert_array_equal(np.diff(crop), np.full(CROP_SAMPLES - 1, 1 / 4096, np.float32))
    assert starts.max() <= 3000 - CROP_SAMPLES
    quarters = np.histogram(starts, 4, (0, 3000 - CROP_SAMPLES + 1))[0]
    assert np.sum((quarters - 125) ** 2 / 125) < 16.3  # chi-square, 3 degrees of freedom, p 0.001


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_speed_changed_crop_is_cut_from_the_whole_changed_utterance(tmp_path: Path, factor: float) -> None:
    noise = np.random.default_rng(4).standard_normal(2500).astype(np.float32)
    examples = TrainingExamples(
        utterance_table(tmp_path, {"a/s/1.wav": noise}), None, CROP_SECONDS, [1.0, factor], 5
    )
    whole = change_speed(noise, factor)
    windows = np.lib.stride_tricks.sliding_window_view(whole, CROP_SAMPLES)
    starts = []
    for number in range(200):
        wave, label, _ = examples[number, 0, CROP_SAMPLES]
        if label == 1:
            distance = np.abs(windows - wave.numpy()).max(axis=1)
            assert distance.min() < 1e-5
            starts.append(distance.argmin() / (len(windows) - 1))
    assert len(starts) > 60
    assert min(starts) < 0.1
    assert max(starts) > 0.9
    assert np.mean(starts) == pytest.approx(0.5, abs=3.3 / np.sqrt(12 * len(starts)))


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_a_short_utterance_wraps_round(tmp_path: Path, factor: float) -> None:
    wave = np.random.default_rng(6).standard_normal(300).astype(np.float32)
    examples = TrainingExamples(
        utterance_table(tmp_path, {"a/s/1.wav": wave}), None, CROP_SECONDS, [1.0, factor], 0
    )
    expected_label = 0 if factor == 1 else 1
    crop = next(
        crop
        for crop, label, _ in (examples[number, 0, CROP_SAMPLES] for number in range(50))
        if label == expected_label
    )
    changed = change_speed(wave, factor)
    np.testing.assert_allclose(crop.numpy(), np.concatenate([changed] * 3)[:CROP_SAMPLES], atol=1e-6)


def test_an_example_depends_on_seed_pass_and_row_alone(
    utterances: pd.DataFrame, augmenter: Augmenter
) -> None:
    examples = TrainingExamples(utterances, augmenter, CROP_SECONDS, FACTORS, seed=7)
    again = TrainingExamples(utterances, augmenter, CROP_SECONDS, FACTORS, seed=7)
    keys = [(number, row, CROP_SAMPLES) for number in range(4) for row in range(6)]
    forward = [examples[key][0].numpy().tobytes() for key in keys]
    backward = [again[key][0].numpy().tobytes() for key in reversed(keys)]
    assert forward == backward[::-1]
    assert len(set(forward)) == len(keys)
    other_seed = TrainingExamples(utterances, augmenter, CROP_SECONDS, FACTORS, seed=8)
    assert other_seed[keys[0]][0].numpy().tobytes() != forward[0]


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(DataError, match="training_utterances"):
        TrainingExamples(UTTERANCES.empty(), None, CROP_SECONDS, [1.0], seed=0)

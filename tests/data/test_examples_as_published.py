"""Examples beside a plain implementation of their description: whole files, drawn and mixed step by step.

The utterance is a tone that grows louder and the clips are tones of another pitch, so that levels in an
example tell which part of the utterance was cut, and how much of a clip was mixed in how loud; a speed moves
the utterance's tone.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import soundfile
import torch
import torchaudio
from scipy.stats import chi2_contingency, ks_2samp

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.tables import NOISE_CLIPS, RIRS, UTTERANCES
from speaker_verification.data.examples import TrainingExamples

CROP_SAMPLES = 3200  # bins of 5 Hz
HERTZ = {"utterance": 500, "noise": 1000, "music": 2000, "speech": 3000}
SECONDS = {"utterance": 0.5, "noise": 4.0, "music": 0.15, "speech": 1.0}  # the music is shorter than the crop
SPEEDS = (1.0, 1.0, 1.0, 0.9, 1.1)
SNR_DB = {"noise": (0, 15), "music": (5, 15), "speech": (13, 20)}
PROBABILITY = 0.9
NUM_EXAMPLES = 3000
LEAST_PROBABILITY = 2e-3

Wave = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def waves() -> dict[str, Wave]:
    tones = {}
    for name, hertz in HERTZ.items():
        seconds = np.arange(round(SECONDS[name] * SAMPLE_RATE)) / SAMPLE_RATE
        amplitude = np.linspace(0.05, 0.4, len(seconds)) if name == "utterance" else 0.3
        tones[name] = (amplitude * np.sin(2 * np.pi * hertz * seconds)).astype(np.float32)
    echo = np.zeros(200, np.float32)
    echo[[0, 150]] = 0.5, 0.4
    return tones | {"room": echo}


def levels_of(wave: Wave) -> dict[str, float]:
    """Level in dB of the bands above -30 dB of the utterance, and the tone of the utterance in Hz."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    bands = {name: float(power[hertz // 5 - 20 : hertz // 5 + 21].sum()) for name, hertz in HERTZ.items()}
    audible = {
        name: 10 * np.log10(value) for name, value in bands.items() if value > 1e-3 * bands["utterance"]
    }
    return audible | {"tone": 5.0 * float(power[80:121].argmax() + 80)}


def fitted(wave: Wave, num_samples: int) -> Wave:
    if len(wave) < num_samples:
        return np.tile(wave, -(-num_samples // len(wave)))[:num_samples]
    start = random.randint(0, len(wave) - num_samples)
    return wave[start : start + num_samples]


def plain_example(waves: dict[str, Wave]) -> Wave:
    speed = random.choice(SPEEDS)
    whole = torchaudio.functional.resample(torch.from_numpy(waves["utterance"]), round(speed * 10), 10)
    wave = fitted(whole.numpy(), CROP_SAMPLES)
    if random.random() > PROBABILITY:
        return wave
    kind = random.choice(["reverb", "noise", "music", "babble", "television"])
    if kind == "reverb":
        unit = waves["room"] / np.linalg.norm(waves["room"])
        return np.convolve(wave, unit)[:CROP_SAMPLES]
    share = random.choice([(1.0, 1.0), (0.4, 0.6), (0.2, 0.4)]) if kind != "television" else (1.0, 1.0)
    for clips in {"babble": ["speech"], "television": ["speech", "music"]}.get(kind, [kind]):
        before = wave
        for _ in range(random.randint(4, 7) if clips == "speech" else 1):
            clip = fitted(waves[clips], int(random.uniform(*share) * CROP_SAMPLES))
            power, of_clip = (np.mean(each.astype(float) ** 2) + 1e-4 for each in (before, clip))
            gain = np.sqrt(power / of_clip / 10 ** (random.uniform(*SNR_DB[clips]) / 10))
            start = random.randint(0, CROP_SAMPLES - len(clip))
            wave = wave + np.pad(gain * clip, (start, CROP_SAMPLES - start - len(clip)))
    return wave


def test_examples_have_the_distribution_of_the_published_ones(waves: dict[str, Wave], tmp_path: Path) -> None:
    paths = {name: str(tmp_path / f"{name}.wav") for name in waves}
    for name, wave in waves.items():
        soundfile.write(paths[name], wave, SAMPLE_RATE, subtype="FLOAT")
    length = len(waves["utterance"])
    utterance = ["a/s/1.wav", "a", "s", "vox2-dev", paths["utterance"], length, length / SAMPLE_RATE]
    noises = [[kind, kind, paths[kind], len(waves[kind]), 1] for kind in SNR_DB]
    room = ["room", "real", paths["room"], len(waves["room"]), 1]
    augmenter = Augmenter(
        NOISE_CLIPS.conform(pd.DataFrame(noises, columns=NOISE_CLIPS.required)),
        RIRS.conform(pd.DataFrame([room], columns=RIRS.columns.names)),
        AugmentationSettings(probability=PROBABILITY),
    )
    table = UTTERANCES.conform(pd.DataFrame([utterance], columns=UTTERANCES.required))
    examples = TrainingExamples(table, augmenter, CROP_SAMPLES / SAMPLE_RATE, SPEEDS, seed=5)
    random.seed(5)
    ours = [levels_of(examples[number, 0, CROP_SAMPLES][0].numpy()) for number in range(NUM_EXAMPLES)]
    plain = [levels_of(plain_example(waves)) for _ in range(NUM_EXAMPLES)]

    def kind_and_speed(levels: dict[str, float]) -> tuple[object, ...]:
        return tuple(name in levels for name in SNR_DB), levels["tone"]

    counted = [Counter(map(kind_and_speed, levels)) for levels in (ours, plain)]
    assert len(counted[0]) == 5 * 3  # clean or reverb, noise, music, babble, television; at three speeds
    cells = [[counts[cell] for cell in counted[0]] for counts in counted]
    assert chi2_contingency(cells).pvalue > LEAST_PROBABILITY
    levels = [pd.DataFrame(each) for each in (ours, plain)]
    for band in HERTZ:
        assert ks_2samp(*(each[band].dropna() for each in levels)).pvalue > LEAST_PROBABILITY, band
    for clips in SNR_DB:
        beside = [(each[clips] - each["utterance"]).dropna() for each in levels]
        assert ks_2samp(*beside).pvalue > LEAST_PROBABILITY, clips

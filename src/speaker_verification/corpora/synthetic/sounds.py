"""Synthetic noises, music, rooms and channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.corpora.settings import ChannelKind

_CHANNEL_TAPS = 1025  # resolve the lowest edge of a microphone

Wave = npt.NDArray[np.float64]


def coloured_noise(num_samples: int, rng: np.random.Generator) -> Wave:
    """Noise of a random colour (white to brown), swelling and fading at random.

    Returns:
        Samples with peak 1, shape (num_samples,).
    """
    from scipy import fft

    length = fft.next_fast_len(num_samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(length))
    frequencies = np.maximum(fft.rfftfreq(length, 1 / SAMPLE_RATE), 50.0)
    wave = fft.irfft(spectrum * frequencies ** -rng.uniform(0, 1), length)[:num_samples]
    seconds = np.arange(num_samples) / SAMPLE_RATE
    swell = 1 + rng.uniform(0, 0.9) * np.sin(2 * np.pi * (rng.uniform(0.2, 6) * seconds + rng.random()))
    return scaled(wave * swell, 1.0)


def chord_music(num_samples: int, rng: np.random.Generator) -> Wave:
    """Arpeggios over a progression of chords, played with decaying harmonics.

    Returns:
        Samples with peak 1, shape (num_samples,).
    """
    wave = np.zeros(num_samples)
    root = rng.uniform(110, 220)  # Hz
    loudness = rng.uniform(0.3, 0.8) ** np.arange(8)
    note_samples = int(rng.uniform(0.15, 0.45) * SAMPLE_RATE)
    seconds = np.arange(4 * note_samples) / SAMPLE_RATE
    decay = np.exp(-seconds * rng.uniform(2, 6)) * np.minimum(seconds / 0.01, 1)
    for number, start in enumerate(range(0, num_samples, note_samples)):
        if number % 8 == 0:
            base = rng.choice([0, 5, 7, 9])  # semitones
            triad = rng.choice([[0, 4, 7, 12], [0, 3, 7, 12]])
        pitch = root * 2 ** ((base + rng.choice(triad)) / 12)
        harmonics = np.arange(1, 9) * pitch
        note = loudness @ np.sin(2 * np.pi * harmonics[:, None] * seconds) * decay
        stop = min(start + len(note), num_samples)
        wave[start:stop] += note[: stop - start]
    return scaled(wave, 1.0)


def draw_rir(
    size_m: tuple[float, float], reverberation_seconds: float, num_microphones: int, rng: np.random.Generator
) -> Wave:
    """RIR of a shoebox room from a random source to random microphones, by the image method.

    Args:
        size_m: least and greatest length of a wall, in metres.
        reverberation_seconds: time of a decay by 60 dB; a room too large for it takes the least possible.
        num_microphones: channels; the microphones are 10 cm apart.
        rng: source of all randomness.

    Returns:
        RIR from the direct sound on, peak 1, shape (samples, num_microphones).
    """
    import pyroomacoustics

    walls = np.array([*rng.uniform(*size_m, 2), rng.uniform(2.4, 3.5)])  # length, width, height
    source, microphone = (rng.uniform(0.6, walls - 0.6) for _ in range(2))
    absorption = min(0.163 * walls.prod() / (_surface(walls) * reverberation_seconds), 0.95)  # Sabine
    room = pyroomacoustics.ShoeBox(
        walls, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(absorption), max_order=12
    )
    room.add_source(source)
    offsets = np.outer([1.0, 0.0, 0.0], 0.1 * np.arange(num_microphones))
    room.add_microphone(microphone[:, None] + offsets)
    room.compute_rir()
    responses = [channel[0] for channel in room.rir]
    start = min(int((np.abs(response) > 0.5 * np.abs(response).max()).argmax()) for response in responses)
    length = min(len(response) for response in responses)
    return scaled(np.stack([response[start:length] for response in responses], axis=1), 1.0)


def draw_channel(kind: ChannelKind, rng: np.random.Generator) -> Wave:
    """Linear-phase FIR filter of a random microphone or telephone line.

    Both colour their passband by up to 5 dB either way. A microphone passes some 80 Hz to 7 kHz, a telephone
    some 300 Hz to 3.4 kHz; what is beyond is 50 dB lower.

    Args:
        kind: "mixed" is either at random.
        rng: source of all randomness.

    Returns:
        Filter, shape (taps,).
    """
    from scipy.signal import firwin2

    is_telephone = kind == "telephone" or (kind == "mixed" and rng.random() < 0.5)
    lowest, highest = ((200, 400), (2800, 3600)) if is_telephone else ((50, 150), (6000, 7500))
    low, high = rng.uniform(*lowest), rng.uniform(*highest)  # Hz
    within = np.geomspace(low, high, 8)
    gains_db = rng.uniform(-5, 5, len(within))
    frequencies = [0, 0.7 * low, *within, min(1.1 * high, 7900), SAMPLE_RATE / 2]
    gains = 10 ** (np.array([-50, -50, *gains_db, -50, -50]) / 20)
    return firwin2(_CHANNEL_TAPS, frequencies, gains, fs=SAMPLE_RATE)


def scaled(wave: Wave, peak: float) -> Wave:
    """The wave with this greatest absolute value."""
    return wave * (peak / np.abs(wave).max())


def _surface(walls: Wave) -> float:
    length, width, height = walls
    return float(2 * (length * width + length * height + width * height))

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.reporting.players import MAX_SECONDS, encode_recordings, sides_of


def write_tones(folder: Path, **seconds: float) -> pd.DataFrame:
    rows = []
    for name, length in seconds.items():
        path, num_samples = folder / f"{name}.wav", int(length * SAMPLE_RATE)
        time = np.arange(num_samples) / SAMPLE_RATE
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), SAMPLE_RATE, subtype="PCM_16")
        rows.append({"utterance_id": name, "path": str(path), "num_samples": num_samples})
    return pd.DataFrame(rows)


def test_a_recording_can_be_heard_from_its_address(tmp_path: Path) -> None:
    (address,) = encode_recordings(write_tones(tmp_path, a=2.0), 10**6).values()
    kind, content = address.split(",")
    assert kind == "data:audio/mpeg;base64"
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(waveform[:SAMPLE_RATE]))
    assert spectrum.argmax() == 440
    assert abs(len(waveform) / rate - 2.0) < 0.2


def test_long_recordings_are_cut_and_those_without_room_are_left_out(tmp_path: Path) -> None:
    tones = write_tones(tmp_path, long=MAX_SECONDS + 40, short=MAX_SECONDS)
    players = encode_recordings(tones, 10**7)
    assert abs(len(players["long"]) - len(players["short"])) < 0.02 * len(players["short"])
    room = len(players["long"]) + 10
    assert list(encode_recordings(tones, room)) == ["long"]


def test_the_sides_of_trials_are_each_encoded_once() -> None:
    assert sides_of([("a", "b"), ("b", "c"), ("a", "c")]) == ["a", "b", "c"]

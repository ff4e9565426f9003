from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import soundfile

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.reporting.players import MAX_SECONDS, encode_recordings, sides_of


def write_tone(path: Path, seconds: float) -> str:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), SAMPLE_RATE, subtype="PCM_16")
    return str(path)


def test_a_recording_can_be_heard_from_its_address(tmp_path: Path) -> None:
    (address,) = encode_recordings({"a": write_tone(tmp_path / "a.wav", 2.0)}, 10**6).values()
    kind, content = address.split(",")
    assert kind == "data:audio/mpeg;base64"
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(waveform[:SAMPLE_RATE]))
    assert spectrum.argmax() == 440
    assert abs(len(waveform) / rate - 2.0) < 0.2


def test_long_recordings_are_cut_and_those_without_room_are_left_out(tmp_path: Path) -> None:
    long = write_tone(tmp_path / "a.wav", MAX_SECONDS + 40)
    short = write_tone(tmp_path / "b.wav", MAX_SECONDS)
    players = encode_recordings({"long": long, "short": short}, 10**7)
    assert abs(len(players["long"]) - len(players["short"])) < 0.02 * len(players["short"])
    room = len(players["long"]) + 10
    assert list(encode_recordings({"long": long, "short": short}, room)) == ["long"]


def test_the_sides_of_trials_are_each_encoded_once() -> None:
    assert sides_of([("a", "b"), ("b", "c"), ("a", "c")]) == ["a", "b", "c"]

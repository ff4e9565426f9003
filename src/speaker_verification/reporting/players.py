"""Sound of trials for a page: recordings as MP3 in data addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

import soundfile

from speaker_verification.audio.files import read_audio
from speaker_verification.audio.format import SAMPLE_RATE

MAX_SECONDS = 20.0  # of a recording
COMPRESSION = 0.6  # of 0 (large) to 1 (small): about 40 kbit/s


def encode_recordings(paths: Mapping[str, str], max_bytes: int) -> dict[str, str]:
    """Recordings as addresses of an audio element, in order, until their size reaches a limit.

    Args:
        paths: path of each recording, by utterance.
        max_bytes: limit on the length of all addresses.

    Returns:
        Address by utterance, of those that found room; of each at most MAX_SECONDS from its beginning.

    Raises:
        AudioError: a recording cannot be read.
    """
    players: dict[str, str] = {}
    room = max_bytes
    for utterance_id, path in paths.items():
        address = _address(path)
        room -= len(address)
        if room < 0:
            break
        players[utterance_id] = address
    return players


def _address(path: str) -> str:
    waveform = read_audio(path)[: int(MAX_SECONDS * SAMPLE_RATE)]
    sound = io.BytesIO()
    soundfile.write(sound, waveform, SAMPLE_RATE, format="MP3", compression_level=COMPRESSION)
    return f"data:audio/mpeg;base64,{base64.b64encode(sound.getvalue()).decode()}"


def sides_of(trials: Iterable[tuple[str, str]]) -> list[str]:
    """Utterances of trials, each once, in order."""
    return list(dict.fromkeys(side for trial in trials for side in trial))

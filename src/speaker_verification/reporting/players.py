"""Sound of trials for a page: recordings as MP3 in data addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.utterance_audio import UtteranceAudio

MAX_SECONDS = 20.0  # of a recording
COMPRESSION = 0.6  # of 0 (large) to 1 (small): about 40 kbit/s


def encode_recordings(utterances: pd.DataFrame, max_bytes: int) -> dict[str, str]:
    """Recordings as addresses of an audio element, in order, until their size reaches a limit.

    Args:
        utterances: rows of the UTTERANCES schema.
        max_bytes: limit on the length of all addresses.

    Returns:
        Address by utterance, of those that found room; of each at most MAX_SECONDS from its beginning.

    Raises:
        DataError: a recording cannot be read.
    """
    audio = UtteranceAudio(utterances)
    players: dict[str, str] = {}
    room = max_bytes
    for row, utterance_id in enumerate(utterances["utterance_id"]):
        address = _address(audio.read(row)[: int(MAX_SECONDS * SAMPLE_RATE)])
        room -= len(address)
        if room < 0:
            break
        players[utterance_id] = address
    return players


def _address(waveform: npt.NDArray[np.float32]) -> str:
    sound = io.BytesIO()
    soundfile.write(sound, waveform, SAMPLE_RATE, format="MP3", compression_level=COMPRESSION)
    return f"data:audio/mpeg;base64,{base64.b64encode(sound.getvalue()).decode()}"


def sides_of(trials: Iterable[tuple[str, str]]) -> list[str]:
    """Utterances of trials, each once, in order."""
    return list(dict.fromkeys(side for trial in trials for side in trial))

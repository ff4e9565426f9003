"""Weights that a model's layer aggregations give to the encoder's states, measured on utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.utterance_audio import UtteranceAudio

if TYPE_CHECKING:
    from torch import Tensor

    from speaker_verification.models.speaker_model import SpeakerModel

MAX_SECONDS = 20.0  # of an utterance
NUM_SHOWN = 2  # utterances whose weights are kept over time
STEPS_OVER_TIME = 120
AGGREGATION = "layer_aggregation."  # in front of a sequence of frames, such as `frames`, `key` or `value`
MEAN_COLUMNS = ("sequence", "state", "weight", "low", "high")
OVER_TIME_COLUMNS = ("sequence", "utterance_id", "seconds", "state", "weight")


class LayerWeights(NamedTuple):
    """Weights of the states 0 to L; state 0 is the input of the encoder's first block.

    Attributes:
        mean: columns sequence (of frames, that the aggregation makes), state, weight (mean over heads, frames
            and utterances), low and high (10th and 90th percentile over frames).
        over_time: columns sequence, utterance_id, seconds, state and weight (mean over heads) of a few
            utterances; empty where weights depend on the model alone.
    """

    mean: pd.DataFrame
    over_time: pd.DataFrame

    @classmethod
    def unknown(cls) -> LayerWeights:
        """Tables without rows."""
        return cls(pd.DataFrame(columns=MEAN_COLUMNS), pd.DataFrame(columns=OVER_TIME_COLUMNS))


def measure_layer_weights(model: SpeakerModel, utterances: pd.DataFrame, num_utterances: int) -> LayerWeights:
    """Measure the weights on utterances that are spread evenly over a table.

    Args:
        model: speaker model; aggregations without weights are left out.
        utterances: table of the UTTERANCES schema.
        num_utterances: number of utterances, of each at most MAX_SECONDS from its beginning.

    Raises:
        DataError: a recording cannot be read.
    """
    places = np.unique(np.linspace(0, len(utterances) - 1, num_utterances).round().astype(int))
    shown = set(places[:: -(-len(places) // NUM_SHOWN) or 1])
    frames: dict[str, list[np.ndarray]] = {}
    over_time = []
    chosen = utterances.iloc[places]
    audio = UtteranceAudio(chosen)
    for row, (place, utterance_id) in enumerate(zip(places, chosen["utterance_id"], strict=True)):
        waveform = audio.read(row)[: int(MAX_SECONDS * SAMPLE_RATE)]
        for name, weights in model.attention(waveform).items():
            if not name.startswith(AGGREGATION):
                continue
            sequence = name.removeprefix(AGGREGATION)
            by_frame = _by_frame(weights)  # (T, L+1)
            frames.setdefault(sequence, []).append(by_frame)
            if len(by_frame) > 1 and place in shown:
                seconds = len(waveform) / SAMPLE_RATE
                over_time.append(_over_time(by_frame, sequence, utterance_id, seconds))
    if not frames:
        return LayerWeights.unknown()
    mean = pd.concat([_mean(sequence, parts) for sequence, parts in frames.items()], ignore_index=True)
    if not over_time:
        return LayerWeights(mean, LayerWeights.unknown().over_time)
    return LayerWeights(mean, pd.concat(over_time, ignore_index=True))


def _by_frame(weights: Tensor) -> np.ndarray:
    """Mean over all but frames and states, (T, L+1); T is 1 where all frames weigh the states alike."""
    values = weights.float().cpu().numpy()
    if values.ndim == 1:
        return values[None]
    return values.reshape(-1, *values.shape[-2:]).mean(axis=0)


def _mean(sequence: str, parts: list[np.ndarray]) -> pd.DataFrame:
    low, high = np.percentile(np.concatenate(parts), [10, 90], axis=0)
    weight = np.mean([part.mean(axis=0) for part in parts], axis=0)
    columns = {"sequence": sequence, "state": np.arange(len(weight))}
    return pd.DataFrame({**columns, "weight": weight, "low": low, "high": high})


def _over_time(by_frame: np.ndarray, sequence: str, utterance_id: str, seconds: float) -> pd.DataFrame:
    """Means over at most STEPS_OVER_TIME equal stretches of an utterance."""
    parts = np.array_split(by_frame, min(STEPS_OVER_TIME, len(by_frame)))
    weights = np.stack([part.mean(axis=0) for part in parts])  # (steps, L+1)
    ends = np.cumsum([len(part) for part in parts])
    middles = (ends - [len(part) / 2 for part in parts]) * seconds / len(by_frame)
    num_steps, num_states = weights.shape
    return pd.DataFrame(
        {
            "sequence": sequence,
            "utterance_id": utterance_id,
            "seconds": np.repeat(middles, num_states),
            "state": np.tile(np.arange(num_states), num_steps),
            "weight": weights.ravel(),
        }
    )

"""Mean embeddings of classes, from some of their training utterances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.distributed import processes
from speaker_verification.common.progress import progress_bar
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.models.speaker_model import SpeakerModel

UTTERANCES_OF_CLASS = 20
BATCH_SECONDS = 60.0  # of audio


def mean_embeddings(model: SpeakerModel, examples: TrainingExamples, classes: Sequence[int]) -> Tensor:
    """Mean directions (n, E) of embeddings of n classes, float32.

    They are means over the middle crops, clean and at the speed of the class, of at most UTTERANCES_OF_CLASS
    utterances, spread over all of the speaker's. Of several processes each embeds a share.

    Args:
        model: speaker model, put into evaluation mode; the head's input is computed as in training.
        examples: training examples.
        classes: n classes.
    """
    group = processes()
    rows_of_speaker = np.split(
        np.argsort(examples.speakers, kind="stable"), np.bincount(examples.speakers).cumsum()[:-1]
    )
    drawn = [
        (own, row)
        for own, label in enumerate(classes)
        for row in _spread(rows_of_speaker[label % examples.num_speakers])
    ]
    share = drawn[group.rank :: group.size]
    batch_size = max(1, int(BATCH_SECONDS * SAMPLE_RATE) // examples.crop_lengths.longest)
    sums = torch.zeros(len(classes), model.embedding_size, dtype=torch.float64)
    model.eval()
    with progress_bar("embed utterances of new classes", len(share)) as advance, torch.inference_mode():
        for first in range(0, len(share), batch_size):
            owners, rows = zip(*share[first : first + batch_size], strict=True)
            crops = [examples.clean_crop(row, classes[own]) for own, row in zip(owners, rows, strict=True)]
            embeddings = model.embed(np.stack(crops))
            directions = functional.normalize(model.speaker_network.loss_input(embeddings))  # (B, E)
            sums.index_add_(0, torch.tensor(owners), directions.double().cpu())
            advance(len(rows))
    return functional.normalize(group.sum(sums)).float()


def _spread(rows: np.ndarray) -> list[int]:
    """Rows at even distances, the first and the last among them."""
    if len(rows) <= UTTERANCES_OF_CLASS:
        return rows.tolist()
    return rows[np.linspace(0, len(rows) - 1, UTTERANCES_OF_CLASS).round().astype(int)].tolist()

"""Speaker model and classification head as the one module that training optimises."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speaker_verification.models.heads.base import Head, HeadOutput, Margins
from speaker_verification.models.speaker_model import SpeakerModel


class SpeakerClassifier(nn.Module):
    """Speaker model with a classification head over the training speakers.

    Args:
        model: speaker model.
        head: head of as many inputs as the model's embeddings have values.
    """

    def __init__(self, model: SpeakerModel, head: Head) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(
        self, waveforms: Tensor, labels: Tensor, margins: Margins, autocast: bool = False
    ) -> HeadOutput:
        """Loss and predictions of a batch.

        Args:
            waveforms: (B, samples) at 16 kHz.
            labels: (B,) classes.
            margins: margins of the step.
            autocast: compute the embeddings in bfloat16; the head takes care of its own precision.
        """
        with torch.autocast(waveforms.device.type, torch.bfloat16, enabled=autocast):
            embeddings = self.model(waveforms)  # (B, E)
        output: HeadOutput = self.head(embeddings, labels, margins)
        return output

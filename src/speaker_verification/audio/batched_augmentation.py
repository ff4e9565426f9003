"""Augmentation of whole batches on any device, equal to `Augmenter.apply` on every crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torchaudio
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speaker_verification.audio.augmentation import LEVEL_FLOOR, PEAK_FLOOR, Augmentation


class CropTensors(NamedTuple):
    """Tensors of which each row belongs to a crop.

    Attributes:
        crops: (N,) which crops of the batch.
        tensors: (N, ...) one for each of them.
    """

    crops: Tensor
    tensors: Tensor


class BatchedAugmentation(NamedTuple):
    """Augmentation of a batch of crops of S samples.

    Attributes:
        responses: RIRs, padded to one length.
        mixtures: clips (N, S) to be added, one after the other.
        scaled: crops that are scaled to a peak of 1, (N,).
    """

    responses: CropTensors | None
    mixtures: tuple[CropTensors, ...]
    scaled: Tensor

    def to(self, device: torch.device) -> BatchedAugmentation:
        """Copy on another device."""

        def moved(part: CropTensors) -> CropTensors:
            return CropTensors(*(tensor.to(device, non_blocking=True) for tensor in part))

        return BatchedAugmentation(
            self.responses and moved(self.responses),
            tuple(moved(mixture) for mixture in self.mixtures),
            self.scaled.to(device, non_blocking=True),
        )


def collate(
    augmentations: Sequence[Augmentation | None], num_samples: int, normalise_peak: bool
) -> BatchedAugmentation:
    """Gather the augmentations of a batch.

    Args:
        augmentations: of every crop.
        num_samples: length of the crops.
        normalise_peak: see AugmentationSettings.
    """
    augmented = {crop: drawn for crop, drawn in enumerate(augmentations) if drawn is not None}
    responses = {crop: drawn.response for crop, drawn in augmented.items() if drawn.response is not None}
    num_mixtures = max((len(drawn.noises) for drawn in augmented.values()), default=0)
    mixtures = [
        {crop: drawn.noises[place] for crop, drawn in augmented.items() if len(drawn.noises) > place}
        for place in range(num_mixtures)
    ]
    return BatchedAugmentation(
        _padded_responses(responses, num_samples) if responses else None,
        tuple(
            CropTensors(torch.tensor(list(mixture)), torch.from_numpy(np.stack(list(mixture.values()))))
            for mixture in mixtures
        ),
        torch.tensor(list(augmented) if normalise_peak else [], dtype=torch.int64),
    )


def augment_batch(waveforms: Tensor, augmentation: BatchedAugmentation) -> Tensor:
    """Augment a batch of crops.

    Args:
        waveforms: (B, S); it is not changed.
        augmentation: on the same device.

    Returns:
        (B, S); each crop to about 1e-6 as `Augmenter.apply` gives it.
    """
    waveforms = waveforms.clone()
    if augmentation.responses is not None:
        crops, responses = augmentation.responses
        reverberant = torchaudio.functional.fftconvolve(waveforms[crops], responses)
        waveforms[crops] = reverberant[:, : waveforms.shape[1]]
    for crops, noises in augmentation.mixtures:
        speech = waveforms[crops]
        amplitudes = (speech.square().mean(dim=1, keepdim=True) + LEVEL_FLOOR).sqrt()  # (N, 1)
        waveforms[crops] = speech + amplitudes * noises
    if len(augmentation.scaled):
        unscaled = waveforms[augmentation.scaled]
        waveforms[augmentation.scaled] = unscaled / (unscaled.abs().amax(dim=1, keepdim=True) + PEAK_FLOOR)
    return waveforms


def _padded_responses(responses: dict[int, np.ndarray], num_samples: int) -> CropTensors:
    """Pad to a length at which the Fourier transforms of the convolution are fast."""
    padded = pad_sequence([torch.from_numpy(response) for response in responses.values()], batch_first=True)
    length = next_fast_len(num_samples + padded.shape[1] - 1, real=True) - num_samples + 1
    padded = torch.nn.functional.pad(padded, (0, length - padded.shape[1]))
    return CropTensors(torch.tensor(list(responses)), padded)

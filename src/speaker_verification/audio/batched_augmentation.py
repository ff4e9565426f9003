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

from speaker_verification.audio.augmentation import (
    LEVEL_FLOOR,
    PEAK_FLOOR,
    Augmentation,
    AugmentationSettings,
)


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
        augmented: crops that are augmented, (N,).
        settings: settings of the augmentation.
    """

    responses: CropTensors | None
    mixtures: tuple[CropTensors, ...]
    augmented: Tensor
    settings: AugmentationSettings

    def to(self, device: torch.device) -> BatchedAugmentation:
        """Copy on another device."""

        def moved(part: CropTensors) -> CropTensors:
            return CropTensors(*(tensor.to(device, non_blocking=True) for tensor in part))

        return BatchedAugmentation(
            self.responses and moved(self.responses),
            tuple(moved(mixture) for mixture in self.mixtures),
            self.augmented.to(device, non_blocking=True),
            self.settings,
        )


def collate(
    augmentations: Sequence[Augmentation | None], num_samples: int, settings: AugmentationSettings
) -> BatchedAugmentation:
    """Gather the augmentations of a batch.

    Args:
        augmentations: of every crop.
        num_samples: length of the crops.
        settings: settings that they were drawn with.
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
        torch.tensor(list(augmented), dtype=torch.int64),
        settings,
    )


def augment_batch(waveforms: Tensor, augmentation: BatchedAugmentation) -> Tensor:
    """Augment a batch of crops.

    Args:
        waveforms: (B, S); it is not changed.
        augmentation: on the same device.

    Returns:
        (B, S); each crop to about 1e-6 as `Augmenter.apply` gives it.
    """
    waveforms, settings, augmented = waveforms.clone(), augmentation.settings, augmentation.augmented
    if settings.standardise:
        waveforms[augmented] = _standardised(waveforms[augmented])
    if augmentation.responses is not None:
        crops, responses = augmentation.responses
        reverberant = torchaudio.functional.fftconvolve(waveforms[crops], responses)
        waveforms[crops] = reverberant[:, : waveforms.shape[1]]
    for crops, noises in augmentation.mixtures:
        speech = waveforms[crops]
        if settings.one_snr:
            levels = _deviations(speech)  # (N, 1)
        else:
            levels = (speech.square().mean(dim=1, keepdim=True) + LEVEL_FLOOR).sqrt()  # (N, 1)
        waveforms[crops] = speech + levels * noises
    if settings.normalise_peak:
        peaks = waveforms[augmented].abs().amax(dim=1, keepdim=True)  # (N, 1)
        waveforms[augmented] = waveforms[augmented] / (peaks + PEAK_FLOOR)
    if settings.standardise:
        waveforms[augmented] = _standardised(waveforms[augmented])
    return waveforms


def _standardised(waveforms: Tensor) -> Tensor:
    """Waveforms (N, S) with zero mean and unit variance each; constant ones as they are."""
    centred = waveforms - waveforms.mean(dim=1, keepdim=True)
    scales = _deviations(waveforms)  # (N, 1)
    return torch.where(scales > 0, centred / scales, waveforms)


def _deviations(waveforms: Tensor) -> Tensor:
    """Standard deviations (N, 1) of waveforms (N, S)."""
    return (waveforms - waveforms.mean(dim=1, keepdim=True)).square().mean(dim=1, keepdim=True).sqrt()


def _padded_responses(responses: dict[int, np.ndarray], num_samples: int) -> CropTensors:
    """Pad to a length at which the Fourier transforms of the convolution are fast."""
    padded = pad_sequence([torch.from_numpy(response) for response in responses.values()], batch_first=True)
    length = next_fast_len(num_samples + padded.shape[1] - 1, real=True) - num_samples + 1
    padded = torch.nn.functional.pad(padded, (0, length - padded.shape[1]))
    return CropTensors(torch.tensor(list(responses)), padded)

"""Speed perturbation: resampling that changes duration and pitch together, and so makes new speakers.

Played at factor 1.1 a recording is shorter and higher by a tenth (Ko et al., Audio augmentation for speech
recognition, Interspeech 2015; as new speakers: Yamamoto et al., Interspeech 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import ParameterError

if TYPE_CHECKING:
    import torch

FILTER_ZERO_CROSSINGS = 6  # on each side of the resampling filter
FILTER_ROLLOFF = 0.99  # cut-off as a share of the Nyquist frequency


@dataclass(frozen=True)
class SourceSpan:
    """The source samples behind a stretch of a speed-changed recording.

    Attributes:
        start: first source sample to read.
        num_samples: how many to read.
        lead: samples to leave out in front once the span's speed is changed.
    """

    start: int
    num_samples: int
    lead: int


def speed_class_offsets(factors: Sequence[float]) -> dict[float, int]:
    """Indices of the distinct speed factors: 1.0 first, the others in order of appearance.

    A speaker at factor f is the class `offset[f] * num_speakers + speaker`.

    Args:
        factors: the list that factors are drawn from; it may hold one several times.

    Raises:
        ParameterError: 1.0 is not among them (nobody would speak at his own speed), or one is not positive.
    """
    if 1.0 not in factors or min(factors) <= 0:
        raise ParameterError(f"speed_factors {list(factors)}: give positive factors with 1.0 among them")
    return {factor: offset for offset, factor in enumerate(dict.fromkeys([1.0, *factors]))}


def changed_length(num_samples: int, factor: float) -> int:
    """Length of a wave of `num_samples` after `change_speed`: num_samples / factor, rounded up."""
    return math.ceil(num_samples / _ratio(factor))


def change_speed(wave: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.float32]:
    """Play a wave faster (factor above 1) or slower, at the same sampling rate.

    The ratio is taken to the nearest hertz at 16 kHz (0.9 is 14,400 to 16,000) and reduced, 9 to 10.

    Args:
        wave: shape (samples,).
        factor: source seconds for each second of the result.

    Returns:
        Shape (`changed_length(samples, factor)`,); the wave itself for factor 1.
    """
    ratio = _ratio(factor)
    if ratio == 1:
        return wave
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the last digit of a convolution depends on how many threads share it
    try:
        return np.asarray(_resampler(ratio)(torch.from_numpy(wave)).numpy())
    finally:
        torch.set_num_threads(num_threads)


def source_span(start: int, num_samples: int, factor: float, source_length: int) -> SourceSpan:
    """Source samples of `change_speed(source, factor)[start : start + num_samples]`.

    With `part = source[span.start : span.start + span.num_samples]` the same samples are
    `change_speed(part, factor)[span.lead : span.lead + num_samples]`, edges included.

    Args:
        start: first sample of the stretch, in the changed recording.
        num_samples: length of the stretch, within the changed recording.
        factor: the speed.
        source_length: samples of the whole source.
    """
    ratio = _ratio(factor)
    if ratio == 1:
        return SourceSpan(start, num_samples, 0)
    # The filter repeats every `numerator` source and `denominator` result samples: a span that begins at a
    # multiple of the one keeps the phase, and its result begins at a multiple of the other.
    margin = _margin_periods(ratio)
    first_period = max(start // ratio.denominator - margin, 0)
    stop_period = -(-(start + num_samples) // ratio.denominator) + margin
    span_start = first_period * ratio.numerator
    span_stop = min(stop_period * ratio.numerator, source_length)
    return SourceSpan(span_start, span_stop - span_start, start - first_period * ratio.denominator)


@lru_cache(maxsize=16)
def _resampler(ratio: Fraction) -> Callable[[torch.Tensor], torch.Tensor]:
    """Cached resampler: its filter costs as much to make as the resampling of a crop."""
    from torchaudio.transforms import Resample

    resample: Callable[[torch.Tensor], torch.Tensor] = Resample(
        ratio.numerator,
        ratio.denominator,
        lowpass_filter_width=FILTER_ZERO_CROSSINGS,
        rolloff=FILTER_ROLLOFF,
    )
    return resample


@lru_cache(maxsize=16)
def _ratio(factor: float) -> Fraction:
    return Fraction(round(factor * SAMPLE_RATE), SAMPLE_RATE)


def _margin_periods(ratio: Fraction) -> int:
    """Whole periods of source that the resampling filter reaches to each side."""
    reach = FILTER_ZERO_CROSSINGS * max(ratio, Fraction(1)) / FILTER_ROLLOFF
    return math.ceil(math.ceil(reach) / ratio.numerator)

from __future__ import annotations

import numpy as np
import pytest

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.speed import change_speed, changed_length, source_span, speed_class_offsets
from speaker_verification.common.errors import ParameterError


def test_normal_speed_is_class_group_zero_and_the_others_follow_in_order_of_appearance() -> None:
    assert speed_class_offsets([1.0, 1.0, 1.0, 0.9, 1.1]) == {1.0: 0, 0.9: 1, 1.1: 2}
    assert speed_class_offsets([1.1, 0.9, 1.0, 1.1]) == {1.0: 0, 1.1: 1, 0.9: 2}
    assert list(speed_class_offsets([1.1, 1.0])) == [1.0, 1.1]


@pytest.mark.parametrize("factors", [[], [0.9, 1.1], [1.0, 0.0], [1.0, -1.1]])
def test_speed_factors_without_normal_speed_or_not_positive_are_refused(factors: list[float]) -> None:
    with pytest.raises(ParameterError, match="speed_factors"):
        speed_class_offsets(factors)


def test_factor_one_returns_the_wave_itself() -> None:
    wave = np.ones(10, np.float32)
    assert change_speed(wave, 1.0) is wave


@pytest.mark.parametrize(
    ("factor", "num_samples", "length"), [(0.9, 9, 10), (0.9, 10, 12), (1.1, 11, 10), (1.1, 12, 11)]
)
def test_length_is_divided_by_the_factor_and_rounded_up(factor: float, num_samples: int, length: int) -> None:
    assert changed_length(num_samples, factor) == length
    assert change_speed(np.ones(num_samples, np.float32), factor).shape == (length,)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_pitch_changes_by_the_factor(factor: float) -> None:
    seconds = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    changed = change_speed(np.sin(2 * np.pi * 1000 * seconds).astype(np.float32), factor)
    middle = changed[4000:-4000]
    expected = np.sin(2 * np.pi * 1000 * factor * np.arange(len(changed)) / SAMPLE_RATE)[4000:-4000]
    assert middle.dtype == np.float32
    np.testing.assert_allclose(middle, expected, atol=2e-3)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 1.03, 2.0])
def test_a_crop_read_from_its_span_equals_the_crop_of_the_whole_changed_wave(factor: float) -> None:
    wave = np.random.default_rng(3).standard_normal(5003).astype(np.float32)
    whole = change_speed(wave, factor)
    num_samples = 1000
    for start in (0, 1, 9, 10, 11, 777, len(whole) - num_samples - 1, len(whole) - num_samples):
        span = source_span(start, num_samples, factor, len(wave))
        part = wave[span.start : span.start + span.num_samples]
        assert len(part) == span.num_samples
        crop = change_speed(part, factor)[span.lead : span.lead + num_samples]
        np.testing.assert_allclose(crop, whole[start : start + num_samples], atol=1e-6)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_little_more_source_is_read_than_the_crop_lasts(factor: float) -> None:
    span = source_span(50_000, 32_000, factor, 10**6)
    assert 32_000 * factor <= span.num_samples <= 32_000 * factor + 50

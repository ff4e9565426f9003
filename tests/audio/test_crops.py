from __future__ import annotations

import numpy as np
import pytest

from speaker_verification.audio.crops import draw_crop_start, wrap
from speaker_verification.errors import DataError


def test_a_short_wave_repeats_from_its_beginning() -> None:
    wave = np.array([1, 2, 3], np.float32)
    wrapped = wrap(wave, 8)
    assert wrapped.tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert wrapped.dtype == np.float32


def test_a_long_wave_keeps_its_beginning_and_one_of_the_right_length_stays() -> None:
    wave = np.array([1, 2, 3], np.float32)
    assert wrap(wave, 2).tolist() == [1, 2]
    assert wrap(wave, 3) is wave


def test_an_empty_wave_is_refused() -> None:
    with pytest.raises(DataError, match="empty wave"):
        wrap(np.zeros(0, np.float32), 4)


def test_crops_start_evenly_at_every_place_where_they_fit() -> None:
    rng = np.random.default_rng(1)
    starts = np.bincount([draw_crop_start(10, 7, rng) for _ in range(4000)])
    assert len(starts) == 4  # 0, 1, 2, 3
    assert np.sum((starts - 1000) ** 2 / 1000) < 16.3  # chi-square, 3 degrees of freedom, p 0.001


@pytest.mark.parametrize("num_available", [3, 7])
def test_a_wave_no_longer_than_the_crop_is_taken_from_its_start(num_available: int) -> None:
    rng = np.random.default_rng(2)
    assert {draw_crop_start(num_available, 7, rng) for _ in range(20)} == {0}

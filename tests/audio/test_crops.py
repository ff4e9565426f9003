from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speaker_verification.audio.crops import WINDOW_SECONDS, draw_crop_start, even_windows, wrap
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError, ParameterError


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


@given(
    lengths=st.lists(st.integers(1, 100 * SAMPLE_RATE), min_size=1, max_size=8),
    window_seconds=st.floats(1, 40),
)
def test_windows_are_equal_and_cover_the_recording(lengths: list[int], window_seconds: float) -> None:
    most = round(window_seconds * SAMPLE_RATE)
    owners, windows = even_windows(np.array(lengths), window_seconds)
    assert sorted(set(owners.tolist())) == list(range(len(lengths)))
    for index, length in enumerate(lengths):
        own = windows[owners == index]
        sizes = np.diff(own, axis=1).ravel()
        assert own[0, 0] == 0
        assert own[-1, 1] == length
        assert len(own) == -(-length // most)  # no more than are needed
        assert (sizes == sizes[0]).all()
        assert sizes[0] <= most
        assert len(own) == 1 or sizes[0] > most / 2
        assert set(own[:-1, 1] - own[1:, 0]) <= {0, 1}  # they overlap by a sample at most


def test_the_longest_recording_of_voxceleb1_is_one_window() -> None:
    owners, windows = even_windows(np.array([4, 145]) * SAMPLE_RATE, WINDOW_SECONDS)
    assert owners.tolist() == [0, 1]
    assert windows.tolist() == [[0, 64_000], [0, 2_320_000]]


@pytest.mark.parametrize("window_seconds", [0.9, 0, -1, float("inf"), float("nan")])
def test_a_window_that_is_none_is_refused(window_seconds: float) -> None:
    with pytest.raises(ParameterError, match=f"window_seconds is {window_seconds}: .* at least 1"):
        even_windows(np.array([16_000]), window_seconds)

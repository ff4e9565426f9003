from __future__ import annotations

import numpy as np

from speaker_verification.data.crop_lengths import CropLengths


def test_one_length_is_that_of_every_step() -> None:
    lengths = CropLengths.of(2.5, seed=3)
    assert {lengths.of_step(step) for step in range(100)} == {40_000}
    assert (lengths.shortest, lengths.longest) == (40_000, 40_000)


def test_lengths_are_drawn_evenly_in_samples_with_both_limits() -> None:
    lengths = CropLengths.of((0.001, 0.0013125), seed=3)
    drawn = [lengths.of_step(step) for step in range(6000)]
    counts = np.bincount(drawn)[16:]
    assert len(counts) == 6  # 16 to 21 samples
    assert np.sum((counts - 1000) ** 2 / 1000) < 20.5  # chi-square, 5 degrees of freedom, p 0.001


def test_a_length_depends_on_seed_and_step_alone() -> None:
    lengths = CropLengths.of((2.0, 3.0), seed=7)
    forward = [lengths.of_step(step) for step in range(50)]
    again = CropLengths.of((2.0, 3.0), seed=7)
    assert [again.of_step(step) for step in reversed(range(50))] == forward[::-1]
    assert len({*forward}) > 45
    assert [CropLengths.of((2.0, 3.0), seed=8).of_step(step) for step in range(50)] != forward

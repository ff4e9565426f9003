from __future__ import annotations

import math

import pytest

from speaker_verification.errors import ParameterError
from speaker_verification.training.schedules import (
    CosineSettings,
    LearningRateSettings,
    MarginSettings,
    learning_rate,
    margin,
    top_k_penalty,
)


def test_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    settings = LearningRateSettings(maximum=1.0, minimum=0.0, cosine=CosineSettings(warmup_fraction=0.2))
    rates = [learning_rate(step, 5, 2, settings) for step in range(10)]
    cosine = [(1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    assert rates == pytest.approx([0.0, 0.5, *cosine])
    assert rates[6] == pytest.approx(0.5)


def test_cycles_keep_their_warm_up_and_change_length_and_peak() -> None:
    cycles = CosineSettings(num_cycles=2, warmup_fraction=0.5, cycle_factor=2.0, peak_factor=0.5)
    settings = LearningRateSettings(maximum=1.0, minimum=0.0, cosine=cycles)
    rates = [learning_rate(step, 8, 1, settings) for step in range(10)]
    # Cycle 1: 4 steps, 2 of warm-up. Cycle 2: 2 of warm-up and 2 x 2 of cosine, at half the peak.
    second = [0.25 * (1 + math.cos(math.pi * n / 4)) for n in range(4)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0, 0.25, *second])


def test_a_flat_rate_is_flat() -> None:
    settings = LearningRateSettings(maximum=5e-6, minimum=5e-6)
    assert {learning_rate(step, 10, 3, settings) for step in range(30)} == {5e-6}


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"minimum 0.1 is above maximum 0.01"):
        LearningRateSettings.parse({"maximum": 0.01, "minimum": 0.1}, "pretrain.learning_rate")


@pytest.mark.parametrize(
    ("curve", "heights"),
    [
        # Five steps over the grid 0, 1/4, 1/2, 3/4, 1 of each curve's own interval, scaled to 0..1.
        ("log", [1 + math.log(0.005 + 0.995 * n / 4) / -math.log(0.005) for n in range(5)]),
        (
            "exp",
            [(math.exp(0.1 + 4.9 * n / 4) - math.exp(0.1)) / (math.exp(5) - math.exp(0.1)) for n in range(5)],
        ),
        ("cos", [0.0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1.0]),
    ],
)
def test_margin_grows_along_its_curve(curve: str, heights: list[float]) -> None:
    settings = MarginSettings(final=0.4, curve=curve, start_epoch=1, growth_epochs=1)
    margins = [margin(step, 5, settings) for step in range(13)]
    assert margins == pytest.approx([0.0] * 5 + [0.4 * height for height in heights] + [0.4] * 3)


def test_margin_without_growth_is_final_at_once() -> None:
    settings = MarginSettings(final=0.5, growth_epochs=0)
    assert [margin(step, 3, settings) for step in range(4)] == [0.5] * 4


def test_top_k_penalty_grows_with_the_margin() -> None:
    settings = MarginSettings(final=0.3, top_k_penalty=0.06)
    assert top_k_penalty(0.0, settings) == 0.0
    assert top_k_penalty(0.15, settings) == pytest.approx(0.03)
    assert top_k_penalty(0.3, settings) == pytest.approx(0.06)
    assert top_k_penalty(0.0, MarginSettings(final=0.0)) == 0.0

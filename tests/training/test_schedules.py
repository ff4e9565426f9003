from __future__ import annotations

import math

import pytest

from speaker_verification.common.errors import ParameterError
from speaker_verification.training.schedules import (
    CosineSettings,
    ExponentialSettings,
    LearningRateSettings,
    MarginSettings,
    StepSettings,
    annealed,
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


def test_a_step_schedule_falls_every_few_epochs_down_to_its_minimum() -> None:
    settings = LearningRateSettings(
        schedule="step", maximum=8.0, minimum=1.5, step=StepSettings(factor=0.5, every_epochs=2)
    )
    rates = [learning_rate(step, 3, 8, settings) for step in range(24)]
    assert rates == pytest.approx([8.0] * 6 + [4.0] * 6 + [2.0] * 6 + [1.5] * 6)


def test_slt22_s_rate_falls_by_a_twentieth_each_epoch() -> None:
    settings = LearningRateSettings(schedule="step", maximum=5e-3, minimum=0.0)
    rates = [learning_rate(step, 10, 15, settings) for step in (0, 9, 10, 20, 149)]
    assert rates == pytest.approx([5e-3, 5e-3, 4.75e-3, 4.5125e-3, 5e-3 * 0.95**14])


def test_an_exponential_schedule_warms_up_from_zero_while_it_falls() -> None:
    """From 16 to 1 over 8 steps: a factor of sqrt(0.5) a step, times 0, 1/4, 1/2, 3/4, 1, 1, ..."""
    settings = LearningRateSettings(
        schedule="exponential", maximum=16.0, minimum=1.0, exponential=ExponentialSettings(warmup_epochs=1)
    )
    rates = [learning_rate(step, 4, 2, settings) for step in range(8)]
    root = math.sqrt(2)
    assert rates == pytest.approx([0.0, 2 * root, 4.0, 3 * root, 4.0, 2 * root, 2.0, root])


def test_an_exponential_schedule_without_warm_up_begins_at_its_maximum() -> None:
    settings = LearningRateSettings(schedule="exponential", maximum=1e-2, minimum=1e-4)
    assert [learning_rate(step, 1, 4, settings) for step in range(4)] == pytest.approx(
        [1e-2, 10**-2.5, 1e-3, 10**-3.5]
    )


def test_an_exponential_schedule_to_zero_is_refused() -> None:
    with pytest.raises(ParameterError, match="minimum 0 is never reached by the exponential schedule"):
        LearningRateSettings.parse({"schedule": "exponential", "minimum": 0}, "pretrain.learning_rate")


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
        ("linear", [0.0, 0.25, 0.5, 0.75, 1.0]),
        # 0.001 to the power of n/5, on a grid that reaches 1 with the step after the last.
        ("concave", [0.0, 0.748811357, 0.936904266, 0.984151068, 0.996018928]),
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


def test_penalty_is_in_proportion_to_a_margin_that_another_phase_ends_with() -> None:
    settings = MarginSettings(final=0.5, top_k_penalty=0.06, penalty_reference_margin=0.2)
    assert top_k_penalty(0.5, settings) == pytest.approx(0.15)
    assert top_k_penalty(0.1, settings) == pytest.approx(0.03)


def test_annealing_is_straight_or_half_a_cosine() -> None:
    assert [annealed(4.0, 2.0, n / 4, "linear") for n in range(5)] == [4.0, 3.5, 3.0, 2.5, 2.0]
    cosine = [annealed(4.0, 2.0, n / 4, "cosine") for n in range(5)]
    assert cosine == pytest.approx([4.0, 3 + math.sqrt(0.5), 3.0, 3 - math.sqrt(0.5), 2.0])

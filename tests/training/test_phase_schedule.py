from __future__ import annotations

import math
from typing import Any

import pytest

from speaker_verification.training.phase_schedule import PhaseSchedule
from tests.support.training import phase_settings


def test_the_rate_is_scaled_from_the_reference_batch_size_to_the_examples_of_a_step() -> None:
    rate = {"maximum": 0.1, "minimum": 0.1, "reference_batch_size": 64}
    phase = phase_settings(batch_size=16, accumulation_steps=2, learning_rate=rate)
    assert PhaseSchedule(phase, 10).learning_rate(0) == pytest.approx(0.05)


# The three stages of the recipe with W2V-BERT 2.0 (arXiv 2510.04213).
STAGE_1 = {
    "schedule": "step",
    "maximum": 1e-4,
    "minimum": 0.0,
    "step": {"warmup_epochs": 5, "factor": 0.1, "every_epochs": 5},
}
FALL = {"maximum": 1e-5, "minimum": 5e-6}


def rates_of(phase: Any, steps_per_epoch: int) -> list[float]:
    schedule = PhaseSchedule(phase, steps_per_epoch)
    return [schedule.learning_rate(step) for step in range(phase.epochs * steps_per_epoch)]


def test_a_rate_that_changes_by_the_epoch_is_that_of_zxhy_s_scheduler() -> None:
    """1, ..., 5 sixths of the maximum, five epochs of it, five of a tenth of it."""
    phase = phase_settings(epochs=15, learning_rate=STAGE_1 | {"update": "epoch"})
    published = [1.6666667e-5, 3.3333333e-5, 5e-5, 6.6666667e-5, 8.3333333e-5] + [1e-4] * 5 + [1e-5] * 5
    rates = rates_of(phase, 3)
    for step_of_epoch in range(3):
        assert rates[step_of_epoch::3] == pytest.approx(published, rel=1e-7)


def test_a_rate_that_changes_by_the_step_is_that_of_wespeaker_s_scheduler() -> None:
    """Ten steps of warm-up by an eleventh of the maximum each, ten of it, ten of a tenth of it."""
    phase = phase_settings(epochs=15, learning_rate=STAGE_1)
    published = [
        *(9.0909091e-6, 1.8181818e-5, 2.7272727e-5, 3.6363636e-5, 4.5454545e-5),
        *(5.4545455e-5, 6.3636364e-5, 7.2727273e-5, 8.1818182e-5, 9.0909091e-5),
        *([1e-4] * 10 + [1e-5] * 10),
    ]
    assert rates_of(phase, 2) == pytest.approx(published, rel=1e-7)


def test_the_fall_over_the_first_epochs_is_that_of_both_public_schedulers() -> None:
    """Steps k of four an epoch: 7.5e-6 + 2.5e-6 cos(pi k / 8) over two of four epochs, then the minimum."""
    cosine = {"warmup_fraction": 0.0, "fall_epochs": 2}
    phase = phase_settings(epochs=4, learning_rate=FALL | {"cosine": cosine})
    published = [
        *(1e-5, 9.8096988e-6, 9.2677670e-6, 8.4567086e-6, 7.5e-6, 6.5432914e-6, 5.7322330e-6, 5.1903012e-6),
        *([5e-6] * 8),
    ]
    assert rates_of(phase, 4) == pytest.approx(published, rel=1e-7)
    large_margin = phase_settings(epochs=2, learning_rate=FALL | {"cosine": cosine | {"fall_epochs": 1}})
    published = [1e-5, 9.2677670e-6, 7.5e-6, 5.7322330e-6, *([5e-6] * 4)]
    assert rates_of(large_margin, 4) == pytest.approx(published, rel=1e-7)


def test_every_schedule_can_change_by_the_epoch() -> None:
    """Four epochs: half a cosine from 8 to 0; from 16 to 1 by halves; annealed from 8 to 2 over two."""
    by_epoch = {"update": "epoch", "maximum": 8.0, "minimum": 0.0}
    cosine = phase_settings(epochs=4, learning_rate=by_epoch | {"cosine": {"warmup_fraction": 0.0}})
    root = math.sqrt(0.5)
    assert rates_of(cosine, 2)[1::2] == pytest.approx([8.0, 4 + 4 * root, 4.0, 4 - 4 * root])
    exponential = {"update": "epoch", "schedule": "exponential", "maximum": 16.0, "minimum": 1.0}
    assert rates_of(phase_settings(epochs=4, learning_rate=exponential), 2)[1::2] == pytest.approx(
        [16.0, 8.0, 4.0, 2.0]
    )
    annealed = phase_settings(
        epochs=4,
        learning_rate=by_epoch | {"schedule": "step", "step": {"factor": 1.0}},
        averaging={"last_epochs": 2, "rate": 2.0},
    )
    assert rates_of(annealed, 2) == pytest.approx([8.0] * 6 + [5.0] * 2)


def test_averaged_epochs_anneal_to_a_rate_of_their_own() -> None:
    """Two of four epochs of two steps: 4 x 0.5 at the start of the third, then a quarter of the way each."""
    phase = phase_settings(
        epochs=4,
        learning_rate={"schedule": "step", "maximum": 8.0, "minimum": 0.0, "step": {"factor": 0.5}},
        averaging={"last_epochs": 2, "rate": 1.0},
    )
    rates = [PhaseSchedule(phase, 2).learning_rate(step) for step in range(8)]
    assert rates == pytest.approx([8.0, 8.0, 4.0, 4.0, 2.0, 1.75, 1.5, 1.25])


def test_averaging_without_a_rate_follows_the_schedule() -> None:
    rate = {"schedule": "step", "maximum": 8.0, "minimum": 0.0, "step": {"factor": 0.5}}
    averaged = phase_settings(epochs=3, learning_rate=rate, averaging={"last_epochs": 2})
    assert [PhaseSchedule(averaged, 1).learning_rate(step) for step in range(3)] == [8.0, 4.0, 2.0]


def test_a_part_has_its_multiple_of_the_rate_averaged_or_not() -> None:
    phase = phase_settings(
        epochs=2,
        learning_rate={"schedule": "step", "maximum": 8.0, "minimum": 0.0, "step": {"factor": 0.5}},
        averaging={"last_epochs": 1, "rate": 2.0},
    )
    schedule = PhaseSchedule(phase, 2)
    assert [schedule.learning_rate(step, 0.25) for step in range(4)] == [2.0, 2.0, 1.0, 0.75]


def test_the_penalty_follows_the_margin() -> None:
    """A linear rise over three steps: 0, half, all of the margin."""
    phase = phase_settings(
        margin={"final": 0.2, "curve": "linear", "growth_epochs": 1, "top_k_penalty": 0.06}
    )
    schedule = PhaseSchedule(phase, 3)
    assert [schedule.margin(step) for step in range(4)] == pytest.approx([0.0, 0.1, 0.2, 0.2])
    assert [schedule.top_k_penalty(step) for step in range(4)] == pytest.approx([0.0, 0.03, 0.06, 0.06])

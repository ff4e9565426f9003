from __future__ import annotations

import pytest

from speaker_verification.training.phase_schedule import PhaseSchedule
from tests.support.training import phase_settings


def test_the_rate_is_scaled_from_the_reference_batch_size_to_the_examples_of_a_step() -> None:
    rate = {"maximum": 0.1, "minimum": 0.1, "reference_batch_size": 64}
    phase = phase_settings(batch_size=16, accumulation_steps=2, learning_rate=rate)
    assert PhaseSchedule(phase, 10).learning_rate(0) == pytest.approx(0.05)


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

"""Time of a phase: its line for each epoch, and the estimate of a whole phase by a shortened one."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.timing import EpochLines, PhaseTimes
from tests.support.training import phase_settings


def rows(epoch: int, eer: float, **metrics: float) -> list[dict[str, Any]]:
    values = {"validation.eer": eer, **metrics}
    return [{"epoch": epoch, "metric": metric, "value": value} for metric, value in values.items()]


class Phase:
    """Lines of a phase of ten epochs of 60 steps, each of them 6 s of audio."""

    def __init__(self, **later: PhaseSettings) -> None:
        self.now, self.times = 0.0, PhaseTimes(steps=[[0.5] * 60])
        phase = phase_settings(epochs=10, steps_per_epoch=60, batch_size=6, crop_seconds=1)
        self.lines = EpochLines("finetune", phase, 60, later, self.times, lambda: self.now)
        self.curve: list[dict[str, Any]] = []

    def log_epoch(self, epoch: int, seconds: float, eer: float, **metrics: float) -> None:
        self.now += seconds
        self.curve += rows(epoch, eer, **metrics)
        self.lines.log_epoch(epoch, 60 * epoch, self.curve)


def test_an_epoch_is_a_line_with_its_error_rate_first(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    phase = Phase()
    phase.log_epoch(0, 3.4, 14.888)
    phase.lines.begin(0)
    phase.log_epoch(1, 60, 12.9, loss=14.152, learning_rate=9.8e-4)
    phase.log_epoch(2, 60, 11.9, loss=4.5, learning_rate=5.2e-4)
    phase.log_epoch(3, 180, 12.31, loss=4.2071, learning_rate=3.1e-4)  # 100 s an epoch, seven are left
    assert caplog.messages == [
        "finetune   0/10  EER 14.89 %  3.4 s",
        "finetune   1/10  EER 12.90 % (best)  loss 14.2  lr 9.8e-04  60 s, 9.0 min left",
        "finetune   2/10  EER 11.90 % (best)  loss 4.5  lr 5.2e-04  60 s, 8.0 min left",
        "finetune   3/10  EER 12.31 % (best 11.90, epoch 2)  loss 4.21  lr 3.1e-04  3.0 min, 12 min left",
    ]
    caplog.clear()
    phase.log_epoch(10, 3e5, 11.95, loss=0.00123, learning_rate=1e-5)
    assert caplog.messages == [
        "finetune  10/10  EER 11.95 % (best 11.90, epoch 2)  loss 0.00123  lr 1.0e-05  3.5 d"
    ]


def test_a_resumed_phase_takes_its_rate_from_its_own_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    phase = Phase()
    phase.curve += rows(8, 10.0)
    phase.lines.begin(60 * 8 + 30)
    phase.log_epoch(9, 45, 9.0, loss=1.0, learning_rate=1e-4)  # 30 steps of 1.5 s, 60 are left
    assert caplog.messages == ["finetune   9/10  EER 9.00 % (best)  loss 1  lr 1.0e-04  45 s, 90 s left"]


def test_the_phases_that_follow_are_told_by_their_audio_as_the_least(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    long_crops = phase_settings(epochs=3, steps_per_epoch=20, batch_size=6, crop_seconds=4)
    phase = Phase(lmft=long_crops)
    phase.lines.begin(0)
    phase.log_epoch(1, 60, 12.9, loss=1.0, learning_rate=1e-4)
    phase.log_epoch(2, 60, 12.0, loss=1.0, learning_rate=1e-4)
    told = [line for line in caplog.messages if "this run" in line]
    # A step of 6 s takes 0.5 s, so 60 steps of 24 s take 120 s.
    assert told == ["at least 11 min of training left in this run: finetune 9.0 min, lmft 2.0 min"]


def test_a_pass_of_a_later_phase_holds_an_utterance_at_its_own_number_of_speeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    pass_of_phase = {"steps_per_epoch": None, "batch_size": 6, "crop_seconds": [3, 5], "epochs": 1}
    every = {"speed_factors": [1.0, 0.9, 1.1], "sampling": {"every_speed": True}}
    phase = Phase(lmft=phase_settings(**pass_of_phase), more=phase_settings(**pass_of_phase | every))
    phase.times.examples_of_pass = 120
    phase.lines.begin(0)
    phase.log_epoch(1, 60, 12.9, loss=1.0, learning_rate=1e-4)
    # 20 and 60 steps of 24 s, each of which takes 2 s.
    assert caplog.messages[-1].endswith("in this run: finetune 9.0 min, lmft 40 s, more 2.0 min")


def test_a_whole_phase_is_estimated_from_the_times_of_a_shortened_one() -> None:
    times = PhaseTimes(
        training=[10.0, 7.0],
        steps=[[3.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 3.0]],
        finishing=[4.0, 6.0],
    )
    # 13 s around the epochs, 5 and 2 s beside the steps of an epoch, 5 s after it; the median step takes 1 s.
    full = phase_settings(epochs=4, steps_per_epoch=50, save_every_steps=None)
    assert times.step_seconds == 1.0
    assert times.full_seconds(40.0, full) == 13 + 5 + 3 * 2 + 4 * (50 + 5)
    # Saves of 1 s after 20 and 40 steps of each epoch.
    times.saving = [0.5, 1.5]
    full = phase_settings(epochs=4, steps_per_epoch=50, save_every_steps=20)
    assert times.full_seconds(40.0, full) == 244 + 4 * 2
    # 2 of the 10 s after epochs are a pass of 5 steps for an average; the whole phase has three of 50 steps.
    times.reestimating = [2.0]
    averaging = {"last_epochs": 3}
    full = phase_settings(epochs=4, steps_per_epoch=50, save_every_steps=None, averaging=averaging)
    assert times.full_seconds(40.0, full) == pytest.approx(13 + 5 + 3 * 2 + 4 * (50 + 4) + 3 * 50 * 0.4)
    # 3 of the 13 s around the epochs are such a pass for the average of the best; the whole one takes 30 s.
    times.averaging_best = [3.0]
    whole = 10 + 30 + 5 + 3 * 2 + 4 * (50 + 4) + 3 * 50 * 0.4
    assert times.full_seconds(40.0, full) == pytest.approx(whole)


def test_the_steps_of_a_whole_pass_come_from_the_corpus() -> None:
    times = PhaseTimes([2.0], [[2.0]], [0.0], examples_of_pass=100)
    full = phase_settings(epochs=2, steps_per_epoch=None, batch_size=6, accumulation_steps=2)
    assert times.full_seconds(2.0, full) == 2 * 8 * 2.0  # of 12 examples each


def test_a_phase_that_trains_nothing_takes_its_own_time() -> None:
    assert PhaseTimes().full_seconds(3.0, phase_settings(epochs=0)) == 3.0

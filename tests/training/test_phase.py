from __future__ import annotations

from typing import Any

import pytest
import torch

from speaker_verification.common.device import resolve_device
from speaker_verification.common.errors import ParameterError
from tests.support.training import phase_settings


def test_a_speaker_has_a_class_for_every_distinct_speed() -> None:
    phase = phase_settings(speed_factors=[1.0, 1.0, 1.0, 0.9, 1.1])
    assert (phase.class_speeds, phase.speeds_of_pass) == ((1.0, 0.9, 1.1), 1)
    phase = phase_settings(speed_factors=[1.0, 0.9, 1.1], sampling={"every_speed": True})
    assert (phase.class_speeds, phase.speeds_of_pass) == ((1.0, 0.9, 1.1), 3)


@pytest.mark.parametrize(
    ("given", "limits", "seconds"), [(2, (2, 2), 12), ([2, 3], (2, 3), 15), ([2.5], (2.5, 2.5), 15)]
)
def test_crops_have_one_length_or_a_range_of_them(given: Any, limits: tuple, seconds: float) -> None:
    phase = phase_settings(crop_seconds=given, batch_size=6)
    assert phase.crop_range == limits
    assert phase.seconds_of_step == seconds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed_factors": [0.9, 1.1]}, r"speed_factors \[0.9, 1.1\]: .* 1.0"),
        (
            {"speed_factors": [1.0, 0.9, 0.9], "sampling": {"every_speed": True}},
            r"speed_factors \[1.0, 0.9, 0.9\]: with sampling.every_speed",
        ),
        ({"crop_seconds": 0}, "'phase.crop_seconds': 0 is neither"),
        ({"crop_seconds": [3, 2]}, r"'phase.crop_seconds': \[3, 2\] is neither .* lower limit first"),
        ({"crop_seconds": [1, 2, 3]}, r"'phase.crop_seconds': \[1, 2, 3\] is neither"),
        ({"crop_seconds": "long"}, "'phase.crop_seconds': 'long' is neither"),
        ({"crop_seconds": True}, "'phase.crop_seconds': True is neither"),
        ({"rank_by": "vox1_e"}, "rank_by 'vox1_e' must be one of: validation, last"),
        ({"batch_size": 1}, "'phase.batch_size' is 1: input should be greater than or equal to 2"),
        ({"epoch": 3}, r"unknown parameter 'phase.epoch': did you mean 'phase.epochs'\?"),
        ({"margin": {"curve": "line"}}, "'phase.margin.curve' is 'line'"),
        ({"gradient_clip_apart": True}, "gradient_clip_apart needs a norm .* set gradient_clip_norm"),
        (
            {"learning_rate": {"cosine": {"fall_epochs": 2, "num_cycles": 3}}},
            "fall_epochs 2 .* num_cycles is 3",
        ),
        (
            {
                "learning_rate": {
                    "schedule": "exponential",
                    "update": "epoch",
                    "exponential": {"warmup_epochs": 2},
                }
            },
            "'phase.learning_rate': update 'epoch' .* exponential.warmup_epochs to 0",
        ),
        ({"average_best": 3}, "average_best 3 is more than keep_checkpoints 2"),
        (
            {"optimiser": {"sgd": {"momentum": 0.0}}},
            "'phase.optimiser.sgd': nesterov needs a momentum above 0",
        ),
        ({"frontend": "thawed"}, "'phase.frontend' is 'thawed'"),
    ],
)
def test_an_impossible_phase_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        phase_settings(**changes)


def test_a_device_that_is_not_here_is_named() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ParameterError, match="'device' is 'abacus'"):
        resolve_device("abacus")

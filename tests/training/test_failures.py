from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from speaker_verification.training.failures import TrainingError, report_out_of_memory
from tests.support.training import phase_settings


def raise_error(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    "run_out",
    [
        lambda: torch.empty(1 << 55, dtype=torch.uint8),
        lambda: raise_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        lambda: raise_error(MemoryError()),
    ],
    ids=["torch on a CPU", "torch on a GPU", "Python"],
)
def test_short_memory_says_which_parameters_to_lower(run_out: Callable[[], Any]) -> None:
    phase = phase_settings(batch_size=6, accumulation_steps=2)
    message = "at step 7: lower batch_size from 6 to 3 and raise accumulation_steps from 2 to 4 .* from 0.25"
    with pytest.raises(TrainingError, match=message), report_out_of_memory(phase, 7):
        run_out()


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), report_out_of_memory(phase_settings(), 7):
        raise RuntimeError("shapes do not fit")

from __future__ import annotations

import random
from typing import Any

import torch
from transformers.models.wavlm.modeling_wavlm import _compute_mask_indices

from speaker_verification.training.seeding import seeded_step


def draws(seed: int, step: int) -> list[Any]:
    """Values of torch, of time masks by NumPy, and of Python, drawn in a step."""
    with seeded_step(seed, step, torch.device("cpu")):
        masks = _compute_mask_indices((4, 100), mask_prob=0.3, mask_length=5)
        return [torch.rand(8).tolist(), masks.tolist(), [random.random() for _ in range(8)]]


def test_the_draws_of_a_step_depend_on_seed_and_step_alone() -> None:
    first = draws(seed=3, step=7)
    draws(seed=3, step=6)
    torch.rand(100)
    assert draws(seed=3, step=7) == first


def test_no_generator_draws_alike_in_two_steps_or_for_two_seeds() -> None:
    first = draws(seed=3, step=7)
    for other in (draws(seed=3, step=8), draws(seed=4, step=7)):
        assert all(a != b for a, b in zip(first, other, strict=True))

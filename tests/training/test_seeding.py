from __future__ import annotations

import random
from typing import Any

import torch
from transformers import WavLMConfig, WavLMModel
from transformers.models.wavlm.modeling_wavlm import _compute_mask_indices

from speaker_verification.common.distributed import processes
from speaker_verification.training.seeding import seeded_step, share_time_masks
from tests.support.processes import run_processes, values_of
from tests.support.tiny_models import TINY_WAVLM


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


def draws_of_a_process() -> list[Any]:
    """Masks for a share of four rows, layer drop's numbers, and values of dropouts."""
    config = WavLMConfig(**TINY_WAVLM | {"mask_time_prob": 0.3, "mask_time_length": 5})
    encoder = WavLMModel(config).train()
    if processes().joined:
        share_time_masks(encoder)
    share = processes().share(4, "batch_size")
    with seeded_step(3, 7, torch.device("cpu")):
        masked = encoder._mask_hidden_states(torch.zeros(4, 100, 16)[share])[:, :, 0] != 0
        return [masked.tolist(), [torch.rand([]).item() for _ in range(3)], torch.rand(8).tolist()]


def test_processes_draw_for_the_batch_alike_and_for_their_shares_apart() -> None:
    (first_masks, *first_drawn), (masks, *drawn) = values_of(run_processes(2, draws_of_a_process))
    masks_alone, drops_alone, _ = draws_of_a_process()
    assert first_masks + masks == masks_alone
    assert first_drawn[0] == drawn[0] == drops_alone
    assert not set(first_drawn[1]) & set(drawn[1])

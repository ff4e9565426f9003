"""Random state as a pure function of the seed and the optimiser step, so that resuming needs none saved.

Several processes draw alike what concerns the whole batch: the blocks that layer drop leaves out, and time
masks, of which each takes its rows. Dropouts are drawn by every process for its own share, so that N
processes drop other values than one does, of the same distribution; on a CPU, where dropouts draw from the
generator that layer drop draws from, other blocks too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel, set_seed

from speaker_verification.common.distributed import processes


@contextmanager
def seeded_step(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Context of an optimiser step, in which random draws depend on its seed and number alone.

    Seeds the global generators of torch (all devices), NumPy and Python. Dropouts and layer drop draw from
    torch's, time masks from NumPy's. Nothing drawn between steps, such as in a validation, changes what a
    step draws.

    Args:
        seed: seed of the phase.
        step: optimiser step, from 0.
        device: device of the training.
    """
    # Two keys keep these draws apart from the order of the utterances, which has one.
    number = _seed_of(seed, 0, step)
    set_seed(number)
    group = processes()
    seed_share = torch.manual_seed if device.type == "cpu" else torch.cuda.manual_seed_all
    if not group.is_first:
        seed_share(_seed_of(seed, 0, step, group.rank))
    # A GPU has a generator of its own, so that layer drop's, on the CPU, is alike in all processes.
    shares_generator = group.size > 1 and device.type == "cpu"
    with _CommonNumbers(torch.Generator().manual_seed(number)) if shares_generator else nullcontext():
        yield


@contextmanager
def common_draw(seed: int, step: int, index: int, device: torch.device) -> Iterator[None]:
    """Context of draws from torch's generators that are alike in all processes, and change no others.

    Args:
        seed: seed of the phase.
        step: optimiser step, from 0.
        index: number of the forward pass in the step, from 0.
        device: device of the draws.
    """
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(_seed_of(seed, 1, step, index))
        yield


def share_time_masks(encoder: PreTrainedModel) -> None:
    """Have an encoder of transformers draw the time masks of the whole batch, and take those of its share."""
    draw = getattr(sys.modules[type(encoder).__module__], "_compute_mask_indices", None)
    mask: Any = getattr(encoder, "_mask_hidden_states", None)
    config: Any = encoder.config
    if draw is None or mask is None:
        return

    def mask_share(
        hidden_states: Tensor, mask_time_indices: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        applies = getattr(config, "apply_spec_augment", True) and config.mask_time_prob > 0
        if mask_time_indices is None and applies and encoder.training:
            batch, num_frames, _ = hidden_states.shape
            num_rows = batch * processes().size
            drawn = draw(
                (num_rows, num_frames),
                mask_prob=config.mask_time_prob,
                mask_length=config.mask_time_length,
                min_masks=config.mask_time_min_masks,
            )
            own = drawn[processes().share(num_rows, "batch_size")]
            mask_time_indices = torch.tensor(own, device=hidden_states.device, dtype=torch.bool)
        return mask(hidden_states, mask_time_indices, attention_mask)

    encoder.__dict__["_mask_hidden_states"] = mask_share


class _CommonNumbers(TorchFunctionMode):
    """Single random numbers, as layer drop draws them, from a generator that all processes have alike."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.rand and args == ([],) and not kwargs:
            return torch.rand([], generator=self._generator)
        return func(*args, **(kwargs or {}))


def _seed_of(seed: int, *key: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])

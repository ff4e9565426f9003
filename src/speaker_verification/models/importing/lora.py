"""Low-rank updates (LoRA) that peft has saved beside the weights, merged into these."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from speaker_verification.common.errors import DataError

PUBLISHED_ALPHA = 128.0

_DOWN = re.compile(r"(.+)\.lora_A\.default\.weight")
_WRAPPERS = re.compile(r"base_model\.model\.|\.base_layer(?=\.)")


def has_lora(weights: Mapping[str, Tensor]) -> bool:
    """Whether low-rank updates are still beside the weights."""
    return any(_DOWN.fullmatch(name) for name in weights)


def merge_lora(weights: Mapping[str, Tensor], alpha: float, origin: Path) -> dict[str, Tensor]:
    """Weights W + alpha / r B A by their names without peft, where there is an update B A of rank r.

    Args:
        weights: weights by name, `lora_A` (r, in) and `lora_B` (out, r) among them.
        alpha: scale of the updates, which is not in the weights; their rank is.
        origin: path for messages.

    Raises:
        DataError: an update has no weight, or another shape.

    Source: E. J. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, section 4.1.
    """
    merged = dict(weights)
    for name in weights:
        if not (match := _DOWN.fullmatch(name)):
            continue
        layer = match[1]
        updated = f"{layer}.base_layer.weight"
        try:
            down, up = merged.pop(name), merged.pop(f"{layer}.lora_B.default.weight")
            update = up @ down * (alpha / len(down))
            if update.shape != merged[updated].shape:
                raise ValueError(f"{tuple(update.shape)} for {tuple(merged[updated].shape)}")
            merged[updated] = merged[updated] + update
        except KeyError as error:
            raise DataError(f"'{origin}' has no complete LoRA: missing {error.args[0]}") from error
        except (RuntimeError, ValueError) as error:
            raise DataError(f"'{origin}' has a LoRA of {layer} that does not fit it: {error}") from error
    return {_WRAPPERS.sub("", name): tensor for name, tensor in merged.items()}

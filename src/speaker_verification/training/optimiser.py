"""Trained parameters of a phase, their learning rates, and the optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from speaker_verification.models.encoders.lora import lora_layers
from speaker_verification.models.frontend import Frontend
from speaker_verification.models.heads.sharding import ClassShard
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.phase import LrMultipliers, OptimiserSettings


def choose_trained(
    frontend: Frontend, which: Literal["frozen", "blocks", "no_convolutions", "trained"]
) -> None:
    """Set `requires_grad` on the trained part of the frontend, LoRA included, and on no other.

    Args:
        frontend: changed in place.
        which: trained part: nothing, the transformer blocks, all but the convolutions, or all.
    """
    adapter = frontend.adapter
    frontend.requires_grad_(which in ("no_convolutions", "trained"))
    if which == "blocks":
        adapter.blocks.requires_grad_(True)
    if which == "no_convolutions":
        for module in adapter.stem:
            module.requires_grad_(False)
    for layer in lora_layers(frontend).values():
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)


def parameter_groups(
    model: SpeakerModel, head: nn.Module, multipliers: LrMultipliers
) -> list[dict[str, Any]]:
    """Trained parameters in optimiser groups: head, backend, frontend, and its blocks from the bottom.

    Blocks decay from the top (whose multiplier is 1) or from the bottom. Layers below the blocks count as one
    block more from the top, and as the bottom block from the bottom; a LayerNorm after the blocks belongs to
    the top one.

    Args:
        model: speaker model, with `requires_grad` set.
        head: margin head.
        multipliers: learning rates relative to the schedule's.

    Returns:
        Groups with `name`, `params` and `lr_multiplier`; those without parameters are left out.

    Source (decay from the top): J. Howard and S. Ruder, ULMFiT, ACL 2018, section 3.2.
    """
    adapter = model.frontend.adapter
    blocks = [list(block.parameters()) for block in adapter.blocks]
    if adapter.final_norm is not None:
        blocks[-1] += adapter.final_norm.parameters()
    in_blocks = {id(parameter) for block in blocks for parameter in block}
    in_frontend = {id(parameter) for parameter in model.frontend.parameters()}
    from_top = multipliers.block_decay_from == "top"
    parts: list[tuple[str, float, Iterable[Parameter]]] = [
        ("head", multipliers.head, head.parameters()),
        ("backend", multipliers.backend, (p for p in model.parameters() if id(p) not in in_frontend)),
        (
            "frontend",
            multipliers.frontend * multipliers.block_decay ** (len(blocks) if from_top else 0),
            (p for p in model.frontend.parameters() if id(p) not in in_blocks),
        ),
    ]
    for index, block in enumerate(blocks):
        distance = len(blocks) - 1 - index if from_top else index
        parts.append((f"block_{index:02d}", multipliers.frontend * multipliers.block_decay**distance, block))
    groups = [
        {"name": name, "params": [p for p in parameters if p.requires_grad], "lr_multiplier": multiplier}
        for name, multiplier, parameters in parts
    ]
    return [group for group in groups if group["params"]]


def make_optimiser(groups: list[dict[str, Any]], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Optimiser over parameter groups; `set_learning_rate` sets its rates."""
    if settings.kind == "sgd":
        return torch.optim.SGD(
            groups,
            lr=0.0,
            weight_decay=settings.weight_decay,
            momentum=settings.sgd.momentum,
            nesterov=settings.sgd.nesterov,
            fused=True,
        )
    rule = torch.optim.Adam if settings.kind == "adam" else torch.optim.AdamW
    return rule(groups, lr=0.0, weight_decay=settings.weight_decay, fused=True)


def keep_whole_state(
    optimiser: torch.optim.Optimizer, sharded: Sequence[Parameter], shard: ClassShard
) -> None:
    """Have the state of an optimiser hold the moments of all classes, and load this process's part of them.

    Args:
        optimiser: optimiser whose `state_dict` all processes call together.
        sharded: parameters of which every process holds its classes' part.
        shard: this process's classes.
    """
    own = {id(parameter) for parameter in sharded}

    def convert(state: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        numbers = [
            number
            for group, packed in zip(optimiser.param_groups, state["param_groups"], strict=True)
            for parameter, number in zip(group["params"], packed["params"], strict=True)
            if id(parameter) in own and number in state["state"]
        ]
        changed = {
            number: {
                name: change(value) if isinstance(value, Tensor) and value.dim() else value
                for name, value in state["state"][number].items()
            }
            for number in numbers
        }
        return state | {"state": state["state"] | changed}

    optimiser.register_state_dict_post_hook(lambda _, state: convert(state, shard.whole))
    optimiser.register_load_state_dict_pre_hook(lambda _, state: convert(state, shard.part))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate_of: Callable[[float], float]) -> None:
    """Set the learning rate of every group.

    Args:
        optimiser: optimiser over the groups of `parameter_groups`.
        rate_of: function from the multiplier of a group to its learning rate.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate_of(group["lr_multiplier"])


def scale_gradients(parameters: Iterable[Parameter], factor: float) -> None:
    """Multiply the gradients in place, where there are any."""
    if factor == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)

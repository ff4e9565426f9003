"""LoRA: trained low-rank updates of an encoder's frozen linear layers, by peft.

An updated layer computes W x + (alpha / rank) B A x. Saved models and averages have the merged weight
W + (alpha / rank) B A under the name that W has without LoRA, so that peft is needed for training alone.

Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, section 4.1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speaker_verification.common.errors import ParameterError

if TYPE_CHECKING:
    from speaker_verification.models.encoder_settings import LoraSettings
    from speaker_verification.models.encoders.base import EncoderAdapter

_NAME = "default"  # of the only update of a layer
_MATRICES = tuple(f"lora_{matrix}.{_NAME}.weight" for matrix in "AB")


class LoraLayer(nn.Module):
    """Mix-in of peft's linear layer, whose `weight` is merged: some attentions multiply by it themselves."""

    base_layer: nn.Linear
    lora_A: nn.ModuleDict
    lora_B: nn.ModuleDict
    lora_dropout: nn.ModuleDict
    get_delta_weight: Any

    def merged_weight(self) -> Tensor:
        """Weight with the update in it, (outputs, inputs); gradients reach the update through it."""
        update: Tensor = self.get_delta_weight(_NAME)
        return self.base_layer.weight + update

    @property
    def weight(self) -> Tensor:
        """Merged weight.

        Raises:
            ParameterError: the update has a dropout of its input, which a weight cannot have.
        """
        dropout = self.lora_dropout[_NAME]
        if isinstance(dropout, nn.Dropout) and dropout.training:
            raise ParameterError(
                f"parameter 'lora.dropout' is {dropout.p}, but this attention multiplies by the weights of "
                "its layers itself: set it to 0, or model.frontend.attention to sdpa"
            )
        return self.merged_weight()


def require_lora(settings: LoraSettings) -> None:
    """Refuse LoRA where peft is not installed.

    Raises:
        ParameterError: naming the extra to install.
    """
    if settings.rank and find_spec("peft") is None:
        raise ParameterError(
            f"parameter 'lora.rank' is {settings.rank}, but peft is not installed: pip install "
            "'speaker-verification[lora]', or set it to 0"
        )


def add_lora(adapter: EncoderAdapter, settings: LoraSettings) -> None:
    """Add LoRA to an encoder in place, or do nothing at rank 0.

    A is drawn as peft does by default, uniformly within 1 / sqrt(inputs), from torch's global generator of
    the CPU; B is zero, so that the encoder computes at first what it did before.

    Args:
        adapter: adapter of the encoder, whose family has default targets.
        settings: settings of LoRA.

    Raises:
        ParameterError: peft is not installed, or no linear layer has the name of a target.
    """
    require_lora(settings)
    if not settings.rank:
        return
    targets = settings.targets or adapter.lora_targets
    _refuse_unknown(targets, adapter)
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[*targets],
    )
    inject_adapter_in_model(config, adapter.encoder, _NAME)
    kind = type("LoraLinear", (LoraLayer, Linear), {})
    for module in adapter.encoder.modules():
        if type(module) is Linear:
            module.__class__ = kind


def lora_layers(module: nn.Module) -> dict[str, LoraLayer]:
    """Updated layers of a module by their names."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LoraLayer)}


def merged_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Parameters of a module by their names without LoRA; merged weights have gradients to their updates."""
    return dict(_merged(module.named_parameters(), lora_layers(module)))


@torch.no_grad()
def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """State of a module with LoRA merged into its weights, as the same module without LoRA has it."""
    return dict(_merged(module.state_dict().items(), lora_layers(module)))


def load_merged_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state of `merged_state`: the frozen weights take it up, and all updates become zero."""
    values = dict(state)
    for name, layer in lora_layers(module).items():
        for part in ("weight", "bias"):
            if f"{name}.{part}" in values:
                values[f"{name}.base_layer.{part}"] = values.pop(f"{name}.{part}")
        for matrix in _MATRICES:
            values[f"{name}.{matrix}"] = torch.zeros_like(layer.get_parameter(matrix))
    module.load_state_dict(values)


def _merged(
    named: Iterable[tuple[str, Tensor]], layers: Mapping[str, LoraLayer]
) -> Iterator[tuple[str, Tensor]]:
    matrices = {f"{name}.{matrix}" for name in layers for matrix in _MATRICES}
    for name, value in named:
        layer, _, part = name.rpartition(".base_layer.")
        if layer in layers:
            yield f"{layer}.{part}", layers[layer].merged_weight() if part == "weight" else value
        elif name not in matrices:
            yield name, value


def _refuse_unknown(targets: tuple[str, ...], adapter: EncoderAdapter) -> None:
    paths = [name.split(".") for name, part in adapter.encoder.named_modules() if isinstance(part, nn.Linear)]
    known = f"Known are {', '.join(sorted({path[-1] for path in paths}))}"
    if not targets:
        raise ParameterError(
            f"parameter 'lora.targets' is null, and {type(adapter).__name__} has no lora_targets. {known}"
        )
    ends = {".".join(path[start:]) for path in paths for start in range(len(path))}
    for target in targets:
        if target not in ends:
            nearest = difflib.get_close_matches(target, sorted(ends), n=1, cutoff=0.4)
            meant = f"did you mean '{nearest[0]}'? " if nearest else ""
            raise ParameterError(
                f"parameter 'lora.targets': the encoder has no linear layer '{target}': {meant}{known}"
            )

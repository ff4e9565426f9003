"""Contract of the encoder adapters: structure and options of a family of transformers' encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.encoders.units import UnitGroup
from speaker_verification.models.faults import Fault

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TIME_MASK_SWITCH = "apply_spec_augment"  # option without which no share of frames is masked
MAX_BLOCKS = 255  # layer attentive pooling stores the number of a state in a byte


class EncoderAdapter(ABC):
    """Structure of an encoder, in the terms that frontend, optimiser and parameter check share.

    Class attributes and class methods describe the options of the family; an instance describes one encoder.
    The module of an adapter imports transformers inside its methods only: the parameter check, which every
    command runs, reads the registry and would wait for it.

    Args:
        encoder: model that AutoModel builds for the family. It is called with what `prepare` returns, and its
            output has `last_hidden_state` (B, T, D).
    """

    default_width: ClassVar[int | None] = None
    """D of an architecture that does not give `hidden_size`."""
    published_widths: ClassVar[Mapping[str, int]] = {}
    """D of published encoders by hub name, to check parameters before a download."""
    counts: ClassVar[tuple[str, ...]] = ("hidden_size", "num_attention_heads", "intermediate_size")
    """Options that are whole numbers from 1."""
    width_divisors: ClassVar[tuple[str, ...]] = ("num_attention_heads",)
    """Options that must divide `hidden_size`."""
    undeclared_options: ClassVar[frozenset[str]] = frozenset()
    """Options that the encoder reads though its configuration class does not declare them."""
    regularisation: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "dropout": ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"),
        "layer_drop": ("layerdrop",),
        "mask_time_probability": ("mask_time_prob",),
    }
    """Options by the name of the parameter in `RegularisationSettings` that replaces them."""
    weight_prefixes: ClassVar[tuple[str, ...]] = ("feature_projection.", "encoder.")
    """First parts of the names of weights; other weights of a checkpoint are of heads and ignored."""
    lora_targets: ClassVar[tuple[str, ...]] = ()
    """Last parts of the names of the linear layers that LoRA updates, unless the phase names others."""
    optional_weights: ClassVar[frozenset[str]] = frozenset({"masked_spec_embed"})
    """Weights that a checkpoint may lack: only training with time masks uses them."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        self.encoder = encoder

    @classmethod
    def architecture_faults(cls, architecture: Mapping[str, Any]) -> Iterator[Fault]:
        """Options of an architecture that no encoder could have, without transformers."""
        found = [
            Fault(name, architecture[name], "give a whole number from 1")
            for name in ("num_hidden_layers", *cls.counts)
            if name in architecture and not is_count(architecture[name])
        ]
        yield from found
        width = architecture.get("hidden_size", cls.default_width)
        if found or width is None:
            return
        for name in cls.width_divisors:
            if width % architecture.get(name, 1):
                yield Fault(name, architecture[name], f"it must divide the encoder's width {width}")

    @classmethod
    def faults(cls, config: PreTrainedConfig) -> Iterator[Fault]:
        """Options that the model cannot serve; combinations are judged once each option alone is right."""
        found = [*cls.option_faults(config.to_dict())]
        yield from found
        if not found:
            yield from cls.combination_faults(config)

    @classmethod
    def option_faults(cls, options: Mapping[str, Any]) -> Iterator[Fault]:
        """Options whose value is wrong whatever the others are."""
        if options.get("add_adapter"):
            yield Fault("add_adapter", True, "it would change the last state's length: set it to false")
        if options.get("quantization_config"):
            method = options["quantization_config"].get("quant_method")
            yield Fault("quantization_config", method, "take the encoder's float weights")
        if not 1 <= options["num_hidden_layers"] <= MAX_BLOCKS:
            yield Fault("num_hidden_layers", options["num_hidden_layers"], f"it must be 1 to {MAX_BLOCKS}")
        for name in cls.counts:
            if options[name] < 1:
                yield Fault(name, options[name], "it must be at least 1")

    @classmethod
    def combination_faults(cls, config: PreTrainedConfig) -> Iterator[Fault]:
        """Options that do not fit each other."""
        for name in cls.width_divisors:
            if config.hidden_size % getattr(config, name):
                yield Fault(name, getattr(config, name), f"it must divide hidden_size {config.hidden_size}")

    @classmethod
    def normalises_waveforms(cls, _checkpoint: str | Path) -> bool | None:
        """Waveform normalisation that the checkpoint was trained with; None where it is not stored."""
        return None

    @property
    def stem(self) -> tuple[nn.Module, ...]:
        """Modules over the waveform that stay frozen where `no_convolutions` are to be trained."""
        return ()

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The L blocks; each takes a state (B, T, D) as its first argument or as `hidden_states`."""

    @property
    def final_norm(self) -> nn.Module | None:
        """LayerNorm between the last block and the last state; None where there is none."""
        return None

    @property
    def masked_frames(self) -> int:
        """Frames of one time mask in training; 0 without time masks."""
        config: Any = self.encoder.config
        masks = getattr(config, TIME_MASK_SWITCH, False) and config.mask_time_prob > 0
        return config.mask_time_length if masks else 0

    def prepare(self, waveforms: Tensor) -> Tensor:
        """Input of the encoder for waveforms (B, samples): the waveforms, or features computed from them."""
        return waveforms

    @abstractmethod
    def minimum_samples(self, num_frames: int) -> int:
        """Smallest number of samples of a waveform with `num_frames` frames."""

    def choose_attention(self, attention: Literal["sdpa", "original"]) -> None:
        """Compute attention by torch's fused product (`sdpa`), or as transformers does (`original`)."""
        self.encoder.set_attn_implementation("sdpa" if attention == "sdpa" else "eager")

    def compiled_parts(self, block: nn.Module) -> tuple[nn.Module, ...]:
        """Modules of a block that are compiled, each alone."""
        return (block,)

    def unit_groups(self) -> list[UnitGroup]:
        """Units that pruning may remove, block by block.

        Raises:
            ParameterError: the encoder cannot be pruned.
        """
        return [group for index, block in enumerate(self.blocks) for group in self.units_of(index, block)]

    def units_of(self, _index: int, _block: Any) -> Iterator[UnitGroup]:
        """Units of a block: heads, then those of its networks, then those of its convolution module."""
        raise ParameterError(
            f"the encoder ({self.encoder.config.model_type}) cannot be pruned: its adapter "
            f"{type(self).__name__} names no units of its blocks"
        )

    def keep_units(self, group: UnitGroup, units: Sequence[int]) -> None:
        """Adjust a module, beside the parameters of its units, to those that are kept.

        Args:
            group: units of the module.
            units: numbers of the kept units, as they were before the cut.
        """
        owner: Any = group.owner
        if group.kind == "attention_heads":
            owner.num_heads = len(units)

    def encode_in_chunks(
        self, _waveforms: Tensor, _last_state: Literal["after", "before"]
    ) -> tuple[Tensor, ...] | None:
        """L+1 states (B, T, D) of long waveforms (B, samples) in bounded memory, in evaluation mode.

        None where the family has no such method: the whole waveform is then encoded at once.
        """
        return None


def is_count(value: Any) -> bool:
    """True for a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

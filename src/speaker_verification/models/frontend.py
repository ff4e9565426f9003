"""Self-supervised encoder: waveforms to the L+1 hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.encoder_settings import RegularisationSettings
from speaker_verification.models.encoders import AdapterChoice, adapter_class
from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.encoders.configuration import (
    build_encoder,
    configuration_of,
    read_configuration,
    refuse_unservable,
)
from speaker_verification.models.encoders.lora import lora_layers
from speaker_verification.models.encoders.regularisation import OF_MODEL, regularisation_options
from speaker_verification.models.initialisation import Uninitialised
from speaker_verification.models.pruning.kept_units import KEPT_UNITS
from speaker_verification.models.settings import FrontendSettings
from speaker_verification.models.weight_files import (
    load_strictly,
    read_json,
    read_safetensors,
    reason,
    refuse_non_finite,
    refuse_unreadable,
    with_optional,
)

# In the order in which transformers looks for weights; an index names several files.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
COMPILED_VARIANTS = 8  # of a block, by its mode, precision and length of input
NORMALISATION_FLOOR = 1e-7  # added to the variance, as in transformers' feature extractor

transformers_logging.disable_progress_bar()  # its bars break those of this project


def save_encoder(settings: FrontendSettings, folder: Path, seed: int) -> None:
    """Write the encoder that a model starts from to a folder in Hugging Face format.

    Args:
        settings: checkpoint (hub name or folder), or architecture whose weights are drawn at random.
        folder: destination of `config.json` and `model.safetensors`.
        seed: seed of the random weights.

    Raises:
        ParameterError: the model does not serve the architecture.
        DataError: the checkpoint cannot be read, lacks weights, or is of an encoder that the model does not
            serve.
    """
    if settings.checkpoint is not None:
        load_encoder(settings.checkpoint, adapter=settings.adapter).save_pretrained(folder)
        return
    where, adapter = "model.frontend.architecture.", settings.adapter
    config = configuration_of(
        settings.architecture or {}, where, ParameterError, closed=True, adapter=adapter
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build_encoder(config, where, adapter).save_pretrained(folder)


def load_encoder(
    checkpoint: str | Path,
    regularisation: RegularisationSettings | None = None,
    adapter: AdapterChoice = None,
    options: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Load an encoder by hub name or folder, in the class that its configuration names.

    The waveform normalisation that it was trained with, which a checkpoint has in a file of its own, becomes
    part of its configuration (`do_normalize`, absent where the checkpoint does not have it).

    Args:
        checkpoint: hub name or folder.
        regularisation: values that replace the checkpoint's own, except None.
        adapter: see `adapter_class`.
        options: further options of its configuration that replace the checkpoint's own.

    Raises:
        DataError: the checkpoint cannot be read, its weights do not fit its configuration, or it is of an
            encoder that the model does not serve.
        ParameterError: the encoder lacks an option of the regularisation.
    """
    config = read_configuration(checkpoint, adapter)
    family = adapter_class(config.model_type, adapter)
    overrides = regularisation_options(regularisation or RegularisationSettings(), config, family, OF_MODEL)
    overrides |= options or {}
    if overrides:
        config = read_configuration(checkpoint, adapter, **overrides)
    if not hasattr(config, "do_normalize"):
        _take_normalisation(config, checkpoint, family)
    if hasattr(config, KEPT_UNITS):
        return _load_pruned(checkpoint, config, adapter)
    try:
        with _without_load_report():
            encoder, report = AutoModel.from_pretrained(
                checkpoint,
                config=config,
                dtype=torch.float32,
                attn_implementation="eager",
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # the report has them all
                output_loading_info=True,
            )
    except Exception as error:  # safetensors, pickle and transformers each raise their own
        for path in _weight_files(checkpoint):
            refuse_unreadable(path)
        raise DataError(f"encoder '{checkpoint}' cannot be loaded: {reason(error)}") from error
    origin = next(iter(_weight_files(checkpoint)), checkpoint)
    _refuse_misfit(report, origin, f"{encoder.base_model_prefix}.", family)
    refuse_non_finite(encoder.state_dict(), origin)
    return encoder


def _load_pruned(checkpoint: str | Path, config: PreTrainedConfig, adapter: AdapterChoice) -> PreTrainedModel:
    """Load an encoder without the units that were pruned, which transformers cannot build."""
    with Uninitialised():
        encoder = build_encoder(config, f"encoder '{checkpoint}': ", adapter)
    path = cached_file(checkpoint, WEIGHT_FILES[0], _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise DataError(f"pruned encoder '{checkpoint}' lacks {WEIGHT_FILES[0]}")
    weights = with_optional(
        encoder, read_safetensors(Path(path)), adapter_class(config.model_type, adapter).optional_weights
    )
    load_strictly(encoder, weights, Path(path))
    return encoder.eval()


def _take_normalisation(
    config: PreTrainedConfig, checkpoint: str | Path, family: type[EncoderAdapter]
) -> None:
    """Add the waveform normalisation of the preprocessor file to the configuration."""
    beside = Path(checkpoint) / "preprocessor_config.json"
    if beside.is_file():
        read_json(beside)
    normalises = family.normalises_waveforms(checkpoint)
    if normalises is not None:
        config.do_normalize = normalises


def _weight_files(checkpoint: str | Path) -> list[Path]:
    """Files on this machine that transformers reads an encoder's weights from.

    Raises:
        DataError: the index of several files is unreadable.
    """
    for name in WEIGHT_FILES:
        path = _local_file(checkpoint, name)
        if path is not None:
            parts = read_json(path).get("weight_map") if path.suffix == ".json" else None
            names = sorted(set(parts.values())) if isinstance(parts, dict) else []
            return [path, *(path.with_name(str(part)) for part in names)]
    return []


def _local_file(checkpoint: str | Path, name: str) -> Path | None:
    """A file of a checkpoint in its folder, or in the hub's cache."""
    if Path(checkpoint).is_dir():
        path = Path(checkpoint) / name
        return path if path.is_file() else None
    cached = try_to_load_from_cache(str(checkpoint), name)
    return Path(cached) if isinstance(cached, str) else None


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Silence transformers' table of weights that do not fit: they are refused here instead."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _refuse_misfit(
    report: dict[str, Any], origin: str | Path, prefix: str, family: type[EncoderAdapter]
) -> None:
    """Refuse weights that do not fit the encoder; weights of heads behind it are ignored."""
    missing = sorted(set(report["missing_keys"]) - family.optional_weights)
    if missing:
        raise DataError(
            f"'{origin}' lacks {len(missing)} weights of the encoder that its config.json describes, the "
            f"first: {missing[:5]}"
        )
    misshapen = sorted(
        f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]
    )
    unexpected = sorted(
        name
        for name in report["unexpected_keys"]
        if name.removeprefix(prefix).startswith(family.weight_prefixes)
    )
    if misshapen or unexpected:
        raise DataError(
            f"'{origin}' does not fit its config.json: {len(misshapen)} weights of another shape "
            f"{misshapen[:5]}, {len(unexpected)} unexpected {unexpected[:5]}"
        )


class Frontend(nn.Module):
    """Encoder with L+1 hidden states, also where layer drop skips a block.

    transformers 5 records no state of a block that layer drop skips, and records the last state of an encoder
    with a LayerNorm behind its blocks before that LayerNorm. The published systems had a repeated input and
    the state after the LayerNorm, as transformers 4 returned them. Hooks on the blocks restore both.

    Args:
        encoder: encoder of transformers for which there is an adapter.
        last_state: last state `after` (as published) or `before` the LayerNorm behind the blocks (Large);
            without effect where there is none.
        waveform_normalisation: zero mean and unit variance of every waveform `always`, or where the
            `checkpoint` was trained with it.
        attention: torch's fused product (`sdpa`), or transformers' own steps (`original`).
        checkpoint_activations: activation checkpointing of every block in training steps.
        adapter: see `adapter_class`.

    Raises:
        ParameterError: waveform_normalisation is `checkpoint`, which does not store it.
        DataError: the model cannot serve the encoder.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        last_state: Literal["after", "before"] = "after",
        waveform_normalisation: Literal["none", "checkpoint", "always"] = "none",
        attention: Literal["sdpa", "original"] = "sdpa",
        checkpoint_activations: bool = False,
        adapter: AdapterChoice = None,
    ) -> None:
        super().__init__()
        refuse_unservable(encoder.config, "encoder: ", adapter=adapter)
        if waveform_normalisation == "checkpoint" and not hasattr(encoder.config, "do_normalize"):
            raise ParameterError(
                "parameter 'model.frontend.waveform_normalisation' is 'checkpoint', which does "
                "not store it: use none or always"
            )
        self.encoder = encoder
        self.adapter = adapter_class(encoder.config.model_type, adapter)(encoder)
        encoder.config.update(
            {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
        )
        self.normalises = waveform_normalisation == "always" or (
            waveform_normalisation == "checkpoint" and encoder.config.do_normalize
        )
        self.last_state = last_state
        self._block_inputs: dict[int, Tensor] = {}
        self.adapter.choose_attention(attention)
        self._recomputes_blocks = checkpoint_activations
        if checkpoint_activations:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        module: Any
        for module in self.adapter.stem:
            # In training mode transformers otherwise asks for the waveform's gradient and keeps the graph.
            module._requires_grad = False
        for index, block in enumerate(self.adapter.blocks):
            block.register_forward_pre_hook(self._remember(index), with_kwargs=True)
        if self.adapter.final_norm is not None:
            self.adapter.final_norm.register_forward_pre_hook(
                self._remember(self.num_blocks), with_kwargs=True
            )

    @property
    def config(self) -> PreTrainedConfig:
        return self.encoder.config

    @property
    def num_blocks(self) -> int:
        return self.config.num_hidden_layers

    @property
    def num_states(self) -> int:
        """L+1, the input of the first block and the output of every block."""
        return self.num_blocks + 1

    @property
    def width(self) -> int:
        """D, the number of channels of a state."""
        return self.config.hidden_size

    def minimum_samples(self, num_frames: int) -> int:
        """Smallest number of samples of a waveform with `num_frames` frames."""
        return self.adapter.minimum_samples(num_frames)

    def compile_blocks(self) -> None:
        """Compile the parts of every block; blocks of the same structure share the compiled code.

        Raises:
            ParameterError: torch.compile does not work on this machine.
        """
        try:
            torch.compile(torch.sin)(torch.ones(2, device=self.encoder.device))
        except Exception as error:  # dynamo, inductor and their compilers each raise their own
            reason = str(error).strip().splitlines()[0]
            raise ParameterError(
                f"parameter 'compile' is true, but torch.compile fails here ({reason}): "
                "install a C++ compiler or set it to false"
            ) from error
        config: Any = torch._dynamo.config
        # Of each code: torch's own number for one shape, and pruned blocks all have shapes of their own.
        config.recompile_limit = max(config.recompile_limit, COMPILED_VARIANTS * self.num_blocks)
        for block in self.adapter.blocks:
            for part in self.adapter.compiled_parts(block):
                part.compile()

    def begin_training(self, mode: Literal["evaluation", "training"]) -> None:
        """Set the mode of the encoder in training steps.

        In evaluation mode too, LoRA has its dropout and blocks are recomputed where that is asked for.
        """
        self.train(mode == "training")
        for layer in lora_layers(self.encoder).values():
            layer.lora_dropout.train()
        if self._recomputes_blocks:
            for block in self.adapter.blocks:
                block.training = True  # of the block alone: transformers asks it whether to recompute

    def normalise(self, waveforms: Tensor) -> Tensor:
        """Normalised waveforms (B, samples), or the same ones where the frontend does not normalise."""
        if not self.normalises:
            return waveforms
        return functional.layer_norm(waveforms, waveforms.shape[1:], eps=NORMALISATION_FLOOR)

    def forward(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        """Encode waveforms of equal length.

        Args:
            waveforms: (B, samples) at 16 kHz.

        Returns:
            L+1 states of shape (B, T, D); the first is the input of the first block.

        Raises:
            ParameterError: in training, the waveforms are shorter than the encoder's time masks.
            DataError: the states of the encoder differ in length or width.
        """
        self.refuse_short(waveforms.shape[1])
        self._block_inputs.clear()
        output = self.encoder(self.adapter.prepare(self.normalise(waveforms))).last_hidden_state
        inputs, self._block_inputs = self._block_inputs, {}
        if self.last_state == "before":
            output = inputs.get(self.num_blocks, output)
        return _refuse_uneven(_fill_dropped(inputs, output, self.num_blocks), self.width)

    def encode_in_chunks(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        """States of `forward` in evaluation mode, to rounding, in bounded memory where the adapter can.

        Args:
            waveforms: (B, samples) at 16 kHz.
        """
        states = self.adapter.encode_in_chunks(self.normalise(waveforms), self.last_state)
        return self(waveforms) if states is None else states

    def refuse_short(self, num_samples: int) -> None:
        """Refuse waveforms that are shorter than a time mask, in training mode.

        Raises:
            ParameterError: with the number of samples that a mask takes.
        """
        length = self.adapter.masked_frames if self.training else 0
        if length and num_samples < (least := self.minimum_samples(length)):
            raise ParameterError(
                f"the encoder masks {length} frames at a time (mask_time_length), which takes {least} "
                f"samples: {num_samples} are too few, set "
                "model.frontend.regularisation.mask_time_probability to 0 or take longer crops"
            )

    def _remember(self, index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._block_inputs[index] = args[0] if args else kwargs["hidden_states"]

        return hook


def _fill_dropped(inputs: dict[int, Tensor], output: Tensor, num_blocks: int) -> tuple[Tensor, ...]:
    """States with those of skipped blocks filled in: a skipped block's output is its input."""
    following = inputs.get(num_blocks, output)
    states: list[Tensor] = [output]
    for index in reversed(range(num_blocks)):
        following = inputs.get(index, following)
        states.append(following)
    return tuple(reversed(states))


def _refuse_uneven(states: tuple[Tensor, ...], width: int) -> tuple[Tensor, ...]:
    """The same states, refused unless all are of one length and of the configured width."""
    wanted = (*states[0].shape[:2], width)
    for index, state in enumerate(states):
        if state.shape != wanted:
            raise DataError(
                f"the encoder's state {index} is of shape {tuple(state.shape)}, not {wanted} as the others: "
                "take an encoder without an adapter behind its blocks"
            )
    return states

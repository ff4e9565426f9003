"""The self-supervised encoder: waveform in, all of its hidden states out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
)
from transformers.utils import logging as transformers_logging

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.encoders.configuration import (
    build_encoder,
    configuration_of,
    read_configuration,
    refuse_unservable,
)
from speaker_verification.models.encoders.wavlm_attention import FusedWavLMAttention
from speaker_verification.models.settings import FrontendSettings, RegularisationSettings
from speaker_verification.models.weight_files import (
    read_json,
    reason,
    refuse_non_finite,
    refuse_unreadable,
)

# Only used while training with time masks; published checkpoints may lack it.
OPTIONAL_WEIGHTS = {"masked_spec_embed"}
# Where transformers looks for weights, the first first; an index names several files.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Other names in a file are of heads for pre-training or for recognition.
OF_THE_ENCODER = ("feature_extractor.", "feature_projection.", "encoder.")
# What a parameter of the regularisation is called in an encoder's configuration.
REGULARISATION = {
    "dropout": ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"),
    "layer_drop": ("layerdrop",),
    "mask_time_probability": ("mask_time_prob",),
}
NORMALISATION_FLOOR = 1e-7  # under the variance, as in transformers' feature extractor

transformers_logging.disable_progress_bar()  # its bars tear the console's own


def save_encoder(settings: FrontendSettings, folder: Path, seed: int) -> None:
    """Write the encoder that a model starts from to a folder in Hugging Face format.

    Args:
        settings: a hub name or a folder; or a transformers configuration (with its `model_type`) whose
            weights are drawn at random.
        folder: where `config.json` and `model.safetensors` go.
        seed: of the random weights.

    Raises:
        ParameterError: the architecture is none that the model serves.
        DataError: the checkpoint cannot be read, is none that the model serves, or lacks weights.
    """
    if settings.checkpoint is not None:
        load_encoder(settings.checkpoint).save_pretrained(folder)
        return
    where = "model.frontend.architecture."
    config = configuration_of(settings.architecture or {}, where, ParameterError, closed=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build_encoder(config, where).save_pretrained(folder)


def load_encoder(
    checkpoint: str | Path, regularisation: RegularisationSettings | None = None
) -> PreTrainedModel:
    """Load an encoder by hub name or folder, in the class that its configuration names.

    Whether it wants normalised waveforms, which the hub keeps in a file beside, becomes part of its
    configuration (`do_normalize`, absent where the checkpoint says nothing).

    Args:
        checkpoint: hub name or folder.
        regularisation: in place of the checkpoint's own, where it is not None.

    Raises:
        DataError: it cannot be read, is none that the model serves, or its weights do not fit its
            configuration.
    """
    config = read_configuration(checkpoint, **_overrides(regularisation))
    if not hasattr(config, "do_normalize"):
        _take_normalisation(config, checkpoint)
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
    _refuse_misfit(report, origin, f"{encoder.base_model_prefix}.")
    refuse_non_finite(encoder.state_dict(), origin)
    return encoder


def _take_normalisation(config: PreTrainedConfig, checkpoint: str | Path) -> None:
    """Waveform normalisation from the preprocessor file, added to the configuration."""
    beside = Path(checkpoint) / "preprocessor_config.json"
    if beside.is_file():
        read_json(beside)
    with suppress(OSError):
        config.do_normalize = Wav2Vec2FeatureExtractor.from_pretrained(checkpoint).do_normalize


def _weight_files(checkpoint: str | Path) -> list[Path]:
    """The files that transformers reads an encoder's weights from, as far as they are on this machine.

    Raises:
        DataError: the index of several is unreadable.
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
    """Silence the table of unfitting weights that transformers prints: they are judged here."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _refuse_misfit(report: dict[str, Any], origin: str | Path, prefix: str) -> None:
    """Refuse weights of another encoder; those of heads behind it may be there."""
    missing = sorted(set(report["missing_keys"]) - OPTIONAL_WEIGHTS)
    if missing:
        raise DataError(
            f"'{origin}' lacks {len(missing)} weights of the encoder that its config.json describes, the "
            f"first: {missing[:5]}"
        )
    misshapen = sorted(
        f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]
    )
    unexpected = sorted(
        name for name in report["unexpected_keys"] if name.removeprefix(prefix).startswith(OF_THE_ENCODER)
    )
    if misshapen or unexpected:
        raise DataError(
            f"'{origin}' does not fit its config.json: {len(misshapen)} weights of another shape "
            f"{misshapen[:5]}, {len(unexpected)} unexpected {unexpected[:5]}"
        )


def _overrides(regularisation: RegularisationSettings | None) -> dict[str, float]:
    values = regularisation.model_dump(exclude_none=True) if regularisation else {}
    return {field: value for name, value in values.items() for field in REGULARISATION[name]}


class Frontend(nn.Module):
    """An encoder that gives L+1 hidden states whatever happens inside it.

    transformers 5 records nothing for a block that layer drop skips, and records the last state of a
    stable-layer-norm encoder before its final LayerNorm; the published systems saw a repeated input and the
    state after that LayerNorm, as transformers 4 gave them. Both are restored here by watching the blocks.

    Args:
        encoder: a WavLM, HuBERT or wav2vec 2.0 model.
        last_state: take the last state `after` (as published) or `before` the final LayerNorm of a
            stable-layer-norm (Large) encoder; the same thing in the others.
        waveform_normalisation: give every waveform zero mean and unit variance `always`, or where the
            `checkpoint` says so.
        attention: through torch's fused product (`sdpa`) or step by step, as the `original` does.
        checkpoint_activations: keep the input of every block alone and compute the block again in the
            backward pass; in training mode.

    Raises:
        ParameterError: the checkpoint does not say.
        DataError: the model cannot serve the encoder.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        last_state: Literal["after", "before"] = "after",
        waveform_normalisation: Literal["none", "checkpoint", "always"] = "none",
        attention: Literal["sdpa", "original"] = "sdpa",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        refuse_unservable(encoder.config, "encoder: ")
        if waveform_normalisation == "checkpoint" and not hasattr(encoder.config, "do_normalize"):
            raise ParameterError(
                "parameter 'model.frontend.waveform_normalisation' is 'checkpoint', which has no "
                "preprocessor_config.json: use none or always"
            )
        self.encoder = encoder
        encoder.config.update(
            {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
        )
        self.normalises = waveform_normalisation == "always" or (
            waveform_normalisation == "checkpoint" and encoder.config.do_normalize
        )
        self.last_state = last_state
        self._block_inputs: dict[int, Tensor] = {}
        _choose_attention(encoder, attention)
        if checkpoint_activations:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        # In training mode transformers else asks for the waveform's gradient, and so keeps the whole graph.
        convolutions: Any = encoder.feature_extractor
        convolutions._requires_grad = False
        blocks: Any = encoder.encoder
        for index, block in enumerate(blocks.layers):
            block.register_forward_pre_hook(self._remember(index), with_kwargs=True)
        if encoder.config.do_stable_layer_norm:
            blocks.layer_norm.register_forward_pre_hook(self._remember(self.num_blocks), with_kwargs=True)

    @property
    def config(self) -> PreTrainedConfig:
        return self.encoder.config

    @property
    def num_blocks(self) -> int:
        return self.config.num_hidden_layers

    @property
    def num_states(self) -> int:
        """L+1: the input of the first block and the output of every block."""
        return self.num_blocks + 1

    @property
    def width(self) -> int:
        """D, the number of channels of a state."""
        return self.config.hidden_size

    def minimum_samples(self, num_frames: int) -> int:
        """Fewest waveform samples that give so many frames."""
        length = num_frames
        layers = enumerate(zip(self.config.conv_stride, self.config.conv_kernel, strict=True))
        for index, (stride, kernel) in reversed(list(layers)):
            if index == 0 and self.config.feat_extract_norm == "group":
                length = max(length, 2)  # steps: over a single one the norm leaves nothing
            length = (length - 1) * stride + kernel
        return length

    def compile_blocks(self) -> None:
        """Compile attention and feed-forward network of every block, which share what is compiled.

        Raises:
            ParameterError: nothing can be compiled here.
        """
        try:
            torch.compile(torch.sin)(torch.ones(2, device=self.encoder.device))
        except Exception as error:  # dynamo, inductor and their compilers each raise their own
            reason = str(error).strip().splitlines()[0]
            raise ParameterError(
                f"parameter 'compile' is true, but torch.compile fails here ({reason}): "
                "install a C++ compiler or set it to false"
            ) from error
        blocks: Any = self.encoder.encoder
        for block in blocks.layers:
            block.attention.compile()
            block.feed_forward.compile()

    def normalise(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, samples) as the encoder wants them."""
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
            ParameterError: in training, they are shorter than the encoder's time masks.
            DataError: the encoder gives states of several lengths or widths.
        """
        self._refuse_shorter_than_masks(waveforms.shape[1])
        self._block_inputs.clear()
        output = self.encoder(self.normalise(waveforms)).last_hidden_state
        inputs, self._block_inputs = self._block_inputs, {}
        if self.last_state == "before":
            output = inputs.get(self.num_blocks, output)
        return _refuse_uneven(_fill_dropped(inputs, output, self.num_blocks), self.width)

    def _refuse_shorter_than_masks(self, num_samples: int) -> None:
        masks = self.training and self.config.apply_spec_augment and self.config.mask_time_prob > 0
        if masks and num_samples < (least := self.minimum_samples(self.config.mask_time_length)):
            raise ParameterError(
                f"the encoder masks {self.config.mask_time_length} frames at a time (mask_time_length), which"
                f" takes {least} samples: {num_samples} are too few, set "
                "model.frontend.regularisation.mask_time_probability to 0 or take longer crops"
            )

    def _remember(self, index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._block_inputs[index] = args[0] if args else kwargs["hidden_states"]

        return hook


def _fill_dropped(inputs: dict[int, Tensor], output: Tensor, num_blocks: int) -> tuple[Tensor, ...]:
    """A dropped block hands its input on, so its input is the next remembered one."""
    following = inputs.get(num_blocks, output)
    states: list[Tensor] = [output]
    for index in reversed(range(num_blocks)):
        following = inputs.get(index, following)
        states.append(following)
    return tuple(reversed(states))


def _refuse_uneven(states: tuple[Tensor, ...], width: int) -> tuple[Tensor, ...]:
    """The states, if they are of one length and of the width that the configuration says."""
    wanted = (*states[0].shape[:2], width)
    for index, state in enumerate(states):
        if state.shape != wanted:
            raise DataError(
                f"the encoder's state {index} is of shape {tuple(state.shape)}, not {wanted} as the others: "
                "take an encoder without an adapter behind its blocks"
            )
    return states


def _choose_attention(encoder: PreTrainedModel, attention: Literal["sdpa", "original"]) -> None:
    """transformers knows a fused attention of HuBERT and wav2vec 2.0, but not of WavLM."""
    if encoder.config.model_type != "wavlm":
        encoder.set_attn_implementation("sdpa" if attention == "sdpa" else "eager")
    elif attention == "sdpa":
        blocks: Any = encoder.encoder
        for block in blocks.layers:
            block.attention.__class__ = FusedWavLMAttention  # the same parameters in the same places
